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
            'watch:The screen (the default). A text summary where output is no terminal.'
            'list:Lists publishers.'
            'snapshot:Writes one snapshot: a summary, everything, JSON, CSV or a picture.'
            'audit:Compares a publisher'\''s claims with the kernel; or surveys any process.'
            'check:Checks requirements; exits 6 when one is broken, or cannot be known.'
            'host:What this machine does that matters to secrets in memory: good, bad or unknown.'
            'diff:What changed between two snapshots that were written as JSON.'
            'record:Writes a sample at each interval to a new file, for replay.'
            'replay:Shows a record on the screen: p pauses, . and , step, t goes to a time.'
            'export:Writes metrics of all publishers of the host as Prometheus text.'
            'demo:Starts a sample process, shows it, and ends it again.'
            'run:Starts a command publishing, and shows it.'
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
        '--file[Attach to this page.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait so long for the publisher\: 10s, 500ms, 2m.]:time:'
        '(--interval -i)'{--interval,-i}'[Read so often\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII alone.]'
        '--no-color[No colours (as with NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--no-mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--open-limit[Warn of a window that stays open for so long (default\: 60s).]:time:'
        '--on-alert[Start a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '(-1 --once)'{-1,--once}'[A text summary, also on a terminal.]'
        '--screen-reader[No screen\: a line for each change, until the process is gone. (So it is on a terminal that cannot place its cursor, such as TERM=dumb.)]'
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
        '--json[As JSON.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_snapshot() {
    local -i ret=1
    local -ar ___format=('text' 'json' 'csv' 'svg')
    local -ar ___view=('arenas' 'secrets' 'map' 'events' 'findings' 'host' 'vaults' 'history')
    local -ar arg_specs=(
        ':target:'
        '--file[Attach to this page.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait so long for the publisher\: 10s, 500ms, 2m.]:time:'
        '--format[text, json, csv (the arenas, one a row) or svg (the screen as a picture); by default as the file'\''s name ends, else text.]:format:{__memwatch_complete "${___format[@]}"}'
        '--full[As text\: each problem, arena, finding and field, not a summary.]'
        '--view[The view that a picture shows.]:view:{__memwatch_complete "${___view[@]}"}'
        '--no-labels[Numbers for the texts of labels.]'
        '(--output -o)'{--output,-o}'[Write to a new file (mode 0600, never over another) instead of standard output.]:file:'
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
        '--file[Attach to this page.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait so long for the publisher\: 10s, 500ms, 2m.]:time:'
        '--json[As JSON.]'
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
        '--file[Attach to this page.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait so long for the publisher\: 10s, 500ms, 2m.]:time:'
        '*--require[What must hold, separated by commas\: locked, nodump, fork-safe, gated, closed-when-idle, guarded, not-swapped, no-findings, no-problems, no-debugger, not-dumpable, emergency-wipe, sealed=NAME, frozen=NAME, arena=NAME, headroom=SIZE, no-open-longer-than=TIME. Without it\: locked, nodump, fork-safe, no-problems, no-findings.]:list:'
        '--policy[Requirements from a file, one a line; # begins a comment.]:file:'
        '--json[As JSON.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_host() {
    local -i ret=1
    local -ar arg_specs=(
        '--json[As JSON.]'
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
        '--json[As JSON.]'
        '--raw[Every field that differs, one a line, as in the files.]'
        '--exit-code[Exit with 6 when a state changed, or something grew or shrank. (Times do not count.)]'
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
        '--file[Attach to this page.]:path:'
        '(--wait -W)'{--wait,-W}'[Wait so long for the publisher\: 10s, 500ms, 2m.]:time:'
        '(--output -o)'{--output,-o}'[The new file (mode 0600, never over another).]:file:'
        '(--interval -i)'{--interval,-i}'[Sample so often\: 1s, 500ms.]:time:'
        '--for[End after so long.]:time:'
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
        '(--interval -i)'{--interval,-i}'[Read so often\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII alone.]'
        '--no-color[No colours (as with NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--no-mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--open-limit[Warn of a window that stays open for so long (default\: 60s).]:time:'
        '--on-alert[Start a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '(-1 --once)'{-1,--once}'[The last sample as text, also on a terminal.]'
        '--full[The last sample as text, with each problem, arena and field.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_export() {
    local -i ret=1
    local -ar arg_specs=(
        '--textfile[Write memwatch.prom in this directory.]:dir:'
        '(--interval -i)'{--interval,-i}'[Collect this often\: 15s, 1m (with --textfile).]:time:'
        '(-1 --once)'{-1,--once}'[Collect once, without counters, and leave the file there.]'
        '--describe[Describe the metrics (Markdown) instead.]'
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
        '(--interval -i)'{--interval,-i}'[Read so often\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII alone.]'
        '--no-color[No colours (as with NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--no-mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--open-limit[Warn of a window that stays open for so long (default\: 60s).]:time:'
        '--on-alert[Start a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '--seed[The same seed gives the same run of the sample process.]:seed:'
        '(-1 --once)'{-1,--once}'[A text summary, also on a terminal.]'
        '--version[Show the version.]'
        '(-h --help)'{-h,--help}'[Show help information.]'
    )
    _arguments -w -s -S : "${arg_specs[@]}" && ret=0

    return "${ret}"
}

_memwatch_run() {
    local -i ret=1
    local -ar arg_specs=(
        '(--interval -i)'{--interval,-i}'[Read so often\: 1s, 500ms (default\: 1s).]:time:'
        '--ascii[Draw with ASCII alone.]'
        '--no-color[No colours (as with NO_COLOR in the environment).]'
        '--bell[Ring the bell at each alert.]'
        '--mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--no-mouse[The mouse selects, sorts and scrolls; the terminal'\''s own selecting then needs Shift.]'
        '--open-limit[Warn of a window that stays open for so long (default\: 60s).]:time:'
        '--on-alert[Start a program at each alert, one at a time and without a shell, with the kind and the arena'\''s id as arguments.]:program:'
        '*--require[What must hold, separated by commas\: locked, nodump, fork-safe, gated, closed-when-idle, guarded, not-swapped, no-findings, no-problems, no-debugger, not-dumpable, emergency-wipe, sealed=NAME, frozen=NAME, arena=NAME, headroom=SIZE, no-open-longer-than=TIME. Without it\: locked, nodump, fork-safe, no-problems, no-findings.]:list:'
        '--policy[Requirements from a file, one a line; # begins a comment.]:file:'
        '--check[No screen\: watch for the command'\''s life, and exit 6 if a requirement was ever broken.]'
        '--adopt[Put its libraries'\'' secure memory into arenas, without a change of the program.]'
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
