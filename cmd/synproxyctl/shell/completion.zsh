#compdef synproxyctl
# Completion of synproxyctl for zsh. The program itself knows what may come next.

_synproxyctl() {
    local -a found
    local line word about
    while IFS= read -r line; do
        word=${line%%$'\t'*}
        about=${line#*$'\t'}
        case $word in
        :files | :dirs)
            [[ -z $about ]] || compset -P "${(b)about}"
            if [[ $word == :dirs ]]; then _files -/; else _files; fi
            ;;
        *) found+=("${word//:/\\:}${about:+:$about}") ;;
        esac
    done < <(PATH=$PATH:/usr/sbin:/usr/local/sbin ${(Q)words[1]} complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe -V synproxyctl found
}

if [[ $funcstack[1] == _synproxyctl ]]; then
    _synproxyctl "$@"
else
    compdef _synproxyctl synproxyctl
fi
