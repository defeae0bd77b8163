#compdef memwatch

__memwatch_complete() {
    local -ar non_empty_completions=("${@:#(|:*)}")
    local -ar empty_completions=("${(M)@:#(|:*)}")
    _describe -V '' non_empty_completions -- empty_completions -P $'\'\''
}

__memwatch_custom_complete() {
    local -a completions
    completions=("${(@f)"$("${command_name}" "${@}" "${command_line[@]}")"}")
    if [[ "${#completions[@]}" -gt 1 ]]; then
        __memwatch_complete "${completions[@]:0:-1}"
    fi
}

__memwatch_cursor_index_in_current_word() {
    if [[ -z "${QIPREFIX}${IPREFIX}${PREFIX}" ]]; then
        printf 0
    else
        printf %s "${#${(z)LBUFFER}[-1]}"
    fi
}

_memwatch() {
    emulate -RL zsh -G
    setopt extendedglob nullglob numericglobsort
    unsetopt aliases banghist

    local -xr SAP_SHELL=zsh
    local -x SAP_SHELL_VERSION
    SAP_SHELL_VERSION="$(builtin emulate zsh -c 'printf %s "${ZSH_VERSION}"')"
    local -r SAP_SHELL_VERSION

    local context state state_descr line
    local -A opt_args

    local -r command_name="${words[1]}"
    local -ar command_line=("${words[@]}")
    local -ir current_word_index="$((CURRENT - 1))"

    local -i ret=1
    local -ar arg_specs=(
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
        '(-): :->command'
        '(-)*:: :->arg'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0
    case "${state}" in
    command)
        local -ar subcommands=(
            'watch:Shows the screen (the default), or a text summary if the output is not a terminal.'
            'list:Lists publishers.'
            'snapshot:Writes one snapshot: a summary, all fields, one view, JSON, CSV or a picture.'
            'audit:Compares a publisher'\''s claims with the kernel, or surveys any process.'
            'check:Checks requirements; exits with 6 if one is broken or cannot be checked.'
            'host:Shows host settings that affect secrets in memory: good, bad or unknown.'
            'diff:Shows what changed between two JSON snapshots.'
            'record:Writes a sample at each interval to a new file, for replay.'
            'replay:Replays a record on the screen: p pauses, . and , step, t jumps to a time.'
            'export:Writes metrics of all publishers of the host as Prometheus text.'
            'demo:Starts a sample process, shows it, and ends it on quit.'
            'run:Starts a command that publishes, and shows it.'
            'help:Show subcommand help information.'
        )
        _describe -V subcommand subcommands && ret=0
        ;;
    arg)
        case "${words[1]}" in
        watch|list|snapshot|audit|check|host|diff|record|replay|export|demo|run|help)
            "_memwatch_${words[1]}" && ret=0
            ;;
        esac
        ;;
    esac

    return "${ret}"
}

_memwatch_watch() {
    local -i ret=1
    local -ar arg_specs=(
        ':target:'
        '--file[Attach to the page at this path.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait up to this long for the publisher\: 10s, 500ms, 2m.]:time:'
        '(--interval -i)'{--interval,-i}'[Sampling interval\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII characters only.]'
        '--no-color[Disable colours (like NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--no-mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--open-limit[Warn about windows that stay open longer than this (default\: 60s).]:time:'
        '--on-alert[Run a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '(-1 --once)'{-1,--once}'[Print a text summary, even on a terminal.]'
        '--screen-reader[Print a line for each change instead of the screen, until the process ends. (The default on a terminal that cannot place its cursor, such as TERM=dumb.)]'
        '--no-audit[Do not compare the page with the mappings of the process (reading them stalls it).]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_list() {
    local -i ret=1
    local -ar arg_specs=(
        '--json[Print JSON.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_snapshot() {
    local -i ret=1
    local -ar ___format=('text' 'json' 'csv' 'svg')
    local -ar ___view=('arenas' 'labels' 'map' 'events' 'audit' 'host' 'vaults' 'history')
    local -ar arg_specs=(
        ':target:'
        '--file[Attach to the page at this path.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait up to this long for the publisher\: 10s, 500ms, 2m.]:time:'
        '--format[text, json, csv (one row per arena, or of the view) or svg (a picture of the screen); default\: by the extension of the file, otherwise text.]:format:{__memwatch_complete "${___format[@]}"}'
        '--full[With text\: every problem, arena, finding and field instead of a summary.]'
        '--view[One view of the screen, in any format; without it, svg draws the arenas.]:view:{__memwatch_complete "${___view[@]}"}'
        '--no-labels[Replace labels with numbers.]'
        '(--output -o)'{--output,-o}'[Write to a new file (mode 0600, never overwritten) instead of standard output.]:file:'
        '--no-audit[Do not compare the page with the mappings of the process (reading them stalls it).]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_audit() {
    local -i ret=1
    local -ar arg_specs=(
        ':target:'
        '--file[Attach to the page at this path.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait up to this long for the publisher\: 10s, 500ms, 2m.]:time:'
        '--json[Print JSON.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_check() {
    local -i ret=1
    local -ar arg_specs=(
        ':target:'
        '--file[Attach to the page at this path.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait up to this long for the publisher\: 10s, 500ms, 2m.]:time:'
        '*--require[Requirements, separated by commas\: locked, nodump, fork-safe, gated, closed-when-idle, guarded, not-swapped, no-findings, no-problems, no-debugger, not-dumpable, emergency-wipe, sealed=NAME, frozen=NAME, arena=NAME, headroom=SIZE, no-open-longer-than=TIME. Default\: locked, nodump, fork-safe, no-problems, no-findings.]:list:'
        '--policy[Read requirements from a file, one per line; # starts a comment.]:file:'
        '--json[Print JSON.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_host() {
    local -i ret=1
    local -ar arg_specs=(
        '--json[Print JSON.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_diff() {
    local -i ret=1
    local -ar arg_specs=(
        ':before:'
        ':after:'
        '--json[Print JSON.]'
        '--raw[Print every field that differs, one per line, as in the files.]'
        '--exit-code[Exit with 6 if a state changed, or something grew or shrank. (Times are ignored.)]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_record() {
    local -i ret=1
    local -ar arg_specs=(
        ':target:'
        '--file[Attach to the page at this path.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait up to this long for the publisher\: 10s, 500ms, 2m.]:time:'
        '(--output -o)'{--output,-o}'[The file to create (mode 0600, never overwritten).]:file:'
        '(--interval -i)'{--interval,-i}'[Sampling interval\: 1s, 500ms.]:time:'
        '--for[Stop after this duration.]:time:'
        '--no-audit[Do not compare the page with the mappings of the process (reading them stalls it).]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_replay() {
    local -i ret=1
    local -ar arg_specs=(
        ':file:'
        '(--interval -i)'{--interval,-i}'[Sampling interval\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII characters only.]'
        '--no-color[Disable colours (like NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--no-mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--open-limit[Warn about windows that stay open longer than this (default\: 60s).]:time:'
        '--on-alert[Run a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '(-1 --once)'{-1,--once}'[Print the last sample as text, even on a terminal.]'
        '--full[Print the last sample as text, with every problem, arena and field.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_export() {
    local -i ret=1
    local -ar arg_specs=(
        '--textfile[Write memwatch.prom to this directory.]:dir:'
        '(--interval -i)'{--interval,-i}'[Collection interval\: 15s, 1m (with --textfile).]:time:'
        '(-1 --once)'{-1,--once}'[Collect once, without counters, and leave the file in place.]'
        '--describe[Print a description of the metrics (Markdown) instead.]'
        '--no-audit[Do not compare the page with the mappings of the process (reading them stalls it).]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_demo() {
    local -i ret=1
    local -ar arg_specs=(
        '(--interval -i)'{--interval,-i}'[Sampling interval\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII characters only.]'
        '--no-color[Disable colours (like NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--no-mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--open-limit[Warn about windows that stay open longer than this (default\: 60s).]:time:'
        '--on-alert[Run a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '--seed[Seed of the sample process; the same seed gives the same run.]:seed:'
        '(-1 --once)'{-1,--once}'[Print a text summary, even on a terminal.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_run() {
    local -i ret=1
    local -ar arg_specs=(
        '(--interval -i)'{--interval,-i}'[Sampling interval\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII characters only.]'
        '--no-color[Disable colours (like NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--no-mouse[Select, sort and scroll with the mouse; the terminal'\''s own selection then needs Shift.]'
        '--open-limit[Warn about windows that stay open longer than this (default\: 60s).]:time:'
        '--on-alert[Run a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '*--require[Requirements, separated by commas\: locked, nodump, fork-safe, gated, closed-when-idle, guarded, not-swapped, no-findings, no-problems, no-debugger, not-dumpable, emergency-wipe, sealed=NAME, frozen=NAME, arena=NAME, headroom=SIZE, no-open-longer-than=TIME. Default\: locked, nodump, fork-safe, no-problems, no-findings.]:list:'
        '--policy[Read requirements from a file, one per line; # starts a comment.]:file:'
        '--check[No screen\: check until the command ends, and exit with 6 if a requirement was ever broken.]'
        '--adopt[Put the secure memory of its libraries into arenas, without changing the program.]'
        '*:command:'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_help() {
    local -i ret=1
    local -ar arg_specs=(
        '*:subcommands:'
        '--version[Show the version.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

if [[ "${funcstack[1]}" = _memwatch ]]; then
    _memwatch "${@}"
else
    compdef _memwatch memwatch
fi
