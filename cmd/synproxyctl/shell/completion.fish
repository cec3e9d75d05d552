# Completion of synproxyctl for fish. The program itself knows what may come next.

function __synproxyctl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -lx PATH $PATH /usr/sbin /usr/local/sbin
    for line in ($words[1] complete -- $words[2..-1] $current 2>/dev/null)
        set -l parts (string split -m 1 \t -- $line)
        switch $parts[1]
            case :files :dirs
                set -l path (string sub -s (math 1 + (string length -- $parts[2])) -- $current)
                if test $parts[1] = :dirs
                    printf "$parts[2]%s\n" (__fish_complete_directories $path '')
                else
                    printf "$parts[2]%s\n" (__fish_complete_path $path)
                end
            case '*'
                echo $line
        end
    end
end

complete -c synproxyctl -f -a '(__synproxyctl_complete)'
