# Completion of mezzo for bash. Needs bash 4.4.

_mezzo() {
    local line=${COMP_LINE:0:COMP_POINT} words=() word rest n=-1 i
    # Bash ends words at `:` and `=`, too; parts with nothing between them are one.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        rest=${line#"${line%%[![:space:]]*}"}
        if ((n < 0)) || [[ $rest != "$line" ]]; then
            words[++n]=
        fi
        words[n]+=${rest:0:${#word}}
        line=${rest:${#word}}
    done
    # Only what stands behind the last of these is replaced.
    local before=${words[n]%"$2"}
    mapfile -t COMPREPLY < <(
        MEZZO_COMPLETE=bash _CLAP_COMPLETE_INDEX=$n _CLAP_IFS=$'\n' mezzo -- "${words[@]//[\"\'\\]/}" 2>/dev/null
    )
    for i in "${!COMPREPLY[@]}"; do
        printf -v 'COMPREPLY[i]' %q "${COMPREPLY[i]#"$before"}"
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:] ]]; then
        compopt -o nospace
    fi
}

complete -o bashdefault -o nosort -F _mezzo mezzo
