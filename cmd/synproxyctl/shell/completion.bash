# Completion of synproxyctl for bash. The program itself knows what may come next.

_synproxyctl() {
    # bash takes words apart at = and : too, so that the line is taken apart anew.
    local line=${COMP_LINE:0:COMP_POINT} words word about cut
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] || ${#words[@]} -lt 2 ]] && words+=("")
    local current=${words[${#words[@]} - 1]}
    COMPREPLY=()
    # What bash believes to stand before the word that it completes.
    cut=
    if [[ $current == *[=:]* ]]; then
        cut=${current%"${current##*[=:]}"}
    fi
    local paths=
    while IFS=$'\t' read -r word about; do
        case $word in
        :files | :dirs)
            local name
            paths=$about
            [[ $word == :dirs ]] && word=-d || word=-f
            while IFS= read -r name; do
                COMPREPLY+=("$about$name")
            done < <(compgen "$word" -- "${current#"$about"}")
            compopt -o filenames 2>/dev/null || :
            # A name is quoted as a whole, which a prefix must not be.
            [[ -z $about ]] || compopt +o filenames -o nospace 2>/dev/null || :
            ;;
        *) COMPREPLY+=("$word") ;;
        esac
    done < <(PATH=$PATH:/usr/sbin:/usr/local/sbin "${words[0]}" complete -- "${words[@]:1}" 2>/dev/null)
    if [[ -n $cut ]]; then
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    fi
    return 0
}

complete -F _synproxyctl synproxyctl
