function __memwatch_should_offer_completions_for_flags_or_options -a expected_commands
    set -l non_repeating_flags_or_options $argv[2..]
    set -l non_repeating_flags_or_options_absent 0
    set -l positional_index 0
    set -l commands
    __memwatch_parse_tokens
    test "$commands" = "$expected_commands"; and return $non_repeating_flags_or_options_absent
end

function __memwatch_should_offer_completions_for_positional -a expected_commands positional_index_comparison expected_positional_index
    set -l non_repeating_flags_or_options
    set -l non_repeating_flags_or_options_absent 0
    set -l positional_index 0
    set -l commands
    __memwatch_parse_tokens
    test "$commands" = "$expected_commands" -a \( "$positional_index" "$positional_index_comparison" "$expected_positional_index" \)
end

function __memwatch_parse_tokens -S
    set -l unparsed_tokens (__memwatch_tokens -pc)
    switch $unparsed_tokens[1]
    case 'memwatch'
        __memwatch_parse_subcommand 0 'version' 'h/help'
        switch $unparsed_tokens[1]
        case 'watch'
            __memwatch_parse_subcommand 1 'file=' 'W/wait=' 'i/interval=' 'ascii' 'no-color' 'bell' 'mouse' 'no-mouse' 'open-limit=' 'on-alert=' '1/once' 'screen-reader' 'no-audit' 'version' 'h/help'
        case 'list'
            __memwatch_parse_subcommand 0 'json' 'version' 'h/help'
        case 'snapshot'
            __memwatch_parse_subcommand 1 'file=' 'W/wait=' 'format=' 'full' 'view=' 'no-labels' 'o/output=' 'no-audit' 'version' 'h/help'
        case 'audit'
            __memwatch_parse_subcommand 1 'file=' 'W/wait=' 'json' 'version' 'h/help'
        case 'check'
            __memwatch_parse_subcommand 1 'file=' 'W/wait=' 'require=+' 'policy=' 'json' 'version' 'h/help'
        case 'host'
            __memwatch_parse_subcommand 0 'json' 'version' 'h/help'
        case 'diff'
            __memwatch_parse_subcommand 2 'json' 'raw' 'exit-code' 'version' 'h/help'
        case 'record'
            __memwatch_parse_subcommand 1 'file=' 'W/wait=' 'o/output=' 'i/interval=' 'for=' 'no-audit' 'version' 'h/help'
        case 'replay'
            __memwatch_parse_subcommand 1 'i/interval=' 'ascii' 'no-color' 'bell' 'mouse' 'no-mouse' 'open-limit=' 'on-alert=' '1/once' 'full' 'version' 'h/help'
        case 'export'
            __memwatch_parse_subcommand 0 'textfile=' 'i/interval=' '1/once' 'describe' 'no-audit' 'version' 'h/help'
        case 'demo'
            __memwatch_parse_subcommand 0 'i/interval=' 'ascii' 'no-color' 'bell' 'mouse' 'no-mouse' 'open-limit=' 'on-alert=' 'seed=' '1/once' 'version' 'h/help'
        case 'run'
            __memwatch_parse_subcommand -r 1 'i/interval=' 'ascii' 'no-color' 'bell' 'mouse' 'no-mouse' 'open-limit=' 'on-alert=' 'require=+' 'policy=' 'check' 'adopt' 'version' 'h/help'
        case 'help'
            __memwatch_parse_subcommand -r 1 'version'
        end
    end
end

function __memwatch_tokens
    if test (string split -m 1 -f 1 -- . "$FISH_VERSION") -gt 3
        commandline --tokens-raw $argv
    else
        commandline -o $argv
    end
end

function __memwatch_parse_subcommand -S -a positional_count
    argparse -s r -- $argv
    set -l option_specs $argv[2..]
    set -l is_repeating_positional $_flag_r
    set -el _flag_r
    set -a commands $unparsed_tokens[1]
    set positional_index 0
    while true
        set -e unparsed_tokens[1]
        argparse -sn "$commands" $option_specs -- $unparsed_tokens 2> /dev/null
        set unparsed_tokens $argv
        set positional_index (math $positional_index + 1)
        for non_repeating_flag_or_option in $non_repeating_flags_or_options
            if set -ql "_flag_$(string replace -a - _ -- $non_repeating_flag_or_option)"
                set non_repeating_flags_or_options_absent 1
                break
            end
        end
        test (count $unparsed_tokens) -eq 0 -o \( -z "$is_repeating_positional" -a "$positional_index" -gt "$positional_count" \) && break
    end
end

function __memwatch_complete_directories
    set -l token (commandline -t)
    string match -- '*/' $token
    set -l subdirs $token*/
    printf %s\n $subdirs
end

function __memwatch_custom_completion
    set -x SAP_SHELL fish
    set -x SAP_SHELL_VERSION $FISH_VERSION
    set -l tokens (__memwatch_tokens -p)
    if test -z "$(__memwatch_tokens -t)"
        set -l index (count (__memwatch_tokens -pc))
        set tokens $tokens[..$index] \'\' $tokens[(math $index + 1)..]
    end
    command $tokens[1] $argv $tokens
end

complete -c 'memwatch' -f
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'watch' -d 'Shows the screen (the default), or a text summary if the output is not a terminal.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'list' -d 'Lists publishers.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'snapshot' -d 'Writes one snapshot: a summary, all fields, one view, JSON, CSV or a picture.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'audit' -d 'Compares a publisher\'s claims with the kernel, or surveys any process.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'check' -d 'Checks requirements; exits with 6 if one is broken or cannot be checked.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'host' -d 'Shows host settings that affect secrets in memory: good, bad or unknown.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'diff' -d 'Shows what changed between two JSON snapshots.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'record' -d 'Writes a sample at each interval to a new file, for replay.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'replay' -d 'Replays a record on the screen: p pauses, . and , step, t jumps to a time.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'export' -d 'Writes metrics of all publishers of the host as Prometheus text.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'demo' -d 'Starts a sample process, shows it, and ends it on quit.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'run' -d 'Starts a command that publishes, and shows it.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_positional "memwatch" -eq 1' -fa 'help' -d 'Show subcommand help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" file' -l 'file' -d 'Attach to the page at this path.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" W wait' -l 'wait' -s 'W' -d 'Wait up to this long for the publisher: 10s, 500ms, 2m.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" i interval' -l 'interval' -s 'i' -d 'Sampling interval: 1s, 500ms (default: 1s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" ascii' -l 'ascii' -d 'Draw with ASCII characters only.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" no-color' -l 'no-color' -d 'Disable colours (like NO_COLOR in the environment).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" bell' -l 'bell' -d 'Ring the bell at each alert.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" mouse' -l 'mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" no-mouse' -l 'no-mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" open-limit' -l 'open-limit' -d 'Warn about windows that stay open longer than this (default: 60s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" on-alert' -l 'on-alert' -d 'Run a program at each alert, one at a time and without a shell, with the kind and the arena\'s id as arguments.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" 1 once' -s '1' -l 'once' -d 'Print a text summary, even on a terminal.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" screen-reader' -l 'screen-reader' -d 'Print a line for each change instead of the screen, until the process ends. (The default on a terminal that cannot place its cursor, such as TERM=dumb.)'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" no-audit' -l 'no-audit' -d 'Do not compare the page with the mappings of the process (reading them stalls it).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch watch" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch list" json' -l 'json' -d 'Print JSON.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch list" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch list" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" file' -l 'file' -d 'Attach to the page at this path.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" W wait' -l 'wait' -s 'W' -d 'Wait up to this long for the publisher: 10s, 500ms, 2m.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" format' -l 'format' -d 'text, json, csv (one row per arena, or of the view) or svg (a picture of the screen); default: by the extension of the file, otherwise text.' -rfka 'text json csv svg'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" full' -l 'full' -d 'With text: every problem, arena, finding and field instead of a summary.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" view' -l 'view' -d 'One view of the screen, in any format; without it, svg draws the arenas.' -rfka 'arenas labels map events audit host vaults history'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" no-labels' -l 'no-labels' -d 'Replace labels with numbers.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" o output' -l 'output' -s 'o' -d 'Write to a new file (mode 0600, never overwritten) instead of standard output.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" no-audit' -l 'no-audit' -d 'Do not compare the page with the mappings of the process (reading them stalls it).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch snapshot" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch audit" file' -l 'file' -d 'Attach to the page at this path.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch audit" W wait' -l 'wait' -s 'W' -d 'Wait up to this long for the publisher: 10s, 500ms, 2m.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch audit" json' -l 'json' -d 'Print JSON.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch audit" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch audit" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check" file' -l 'file' -d 'Attach to the page at this path.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check" W wait' -l 'wait' -s 'W' -d 'Wait up to this long for the publisher: 10s, 500ms, 2m.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check"' -l 'require' -d 'Requirements, separated by commas: locked, nodump, fork-safe, gated, closed-when-idle, guarded, not-swapped, no-findings, no-problems, no-debugger, not-dumpable, emergency-wipe, sealed=NAME, frozen=NAME, arena=NAME, headroom=SIZE, no-open-longer-than=TIME. Default: locked, nodump, fork-safe, no-problems, no-findings.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check" policy' -l 'policy' -d 'Read requirements from a file, one per line; # starts a comment.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check" json' -l 'json' -d 'Print JSON.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch check" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch host" json' -l 'json' -d 'Print JSON.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch host" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch host" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch diff" json' -l 'json' -d 'Print JSON.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch diff" raw' -l 'raw' -d 'Print every field that differs, one per line, as in the files.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch diff" exit-code' -l 'exit-code' -d 'Exit with 6 if a state changed, or something grew or shrank. (Times are ignored.)'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch diff" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch diff" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" file' -l 'file' -d 'Attach to the page at this path.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" W wait' -l 'wait' -s 'W' -d 'Wait up to this long for the publisher: 10s, 500ms, 2m.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" o output' -l 'output' -s 'o' -d 'The file to create (mode 0600, never overwritten).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" i interval' -l 'interval' -s 'i' -d 'Sampling interval: 1s, 500ms.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" for' -l 'for' -d 'Stop after this duration.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" no-audit' -l 'no-audit' -d 'Do not compare the page with the mappings of the process (reading them stalls it).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch record" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" i interval' -l 'interval' -s 'i' -d 'Sampling interval: 1s, 500ms (default: 1s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" ascii' -l 'ascii' -d 'Draw with ASCII characters only.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" no-color' -l 'no-color' -d 'Disable colours (like NO_COLOR in the environment).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" bell' -l 'bell' -d 'Ring the bell at each alert.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" mouse' -l 'mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" no-mouse' -l 'no-mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" open-limit' -l 'open-limit' -d 'Warn about windows that stay open longer than this (default: 60s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" on-alert' -l 'on-alert' -d 'Run a program at each alert, one at a time and without a shell, with the kind and the arena\'s id as arguments.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" 1 once' -s '1' -l 'once' -d 'Print the last sample as text, even on a terminal.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" full' -l 'full' -d 'Print the last sample as text, with every problem, arena and field.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch replay" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" textfile' -l 'textfile' -d 'Write memwatch.prom to this directory.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" i interval' -l 'interval' -s 'i' -d 'Collection interval: 15s, 1m (with --textfile).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" 1 once' -s '1' -l 'once' -d 'Collect once, without counters, and leave the file in place.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" describe' -l 'describe' -d 'Print a description of the metrics (Markdown) instead.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" no-audit' -l 'no-audit' -d 'Do not compare the page with the mappings of the process (reading them stalls it).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch export" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" i interval' -l 'interval' -s 'i' -d 'Sampling interval: 1s, 500ms (default: 1s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" ascii' -l 'ascii' -d 'Draw with ASCII characters only.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" no-color' -l 'no-color' -d 'Disable colours (like NO_COLOR in the environment).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" bell' -l 'bell' -d 'Ring the bell at each alert.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" mouse' -l 'mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" no-mouse' -l 'no-mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" open-limit' -l 'open-limit' -d 'Warn about windows that stay open longer than this (default: 60s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" on-alert' -l 'on-alert' -d 'Run a program at each alert, one at a time and without a shell, with the kind and the arena\'s id as arguments.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" seed' -l 'seed' -d 'Seed of the sample process; the same seed gives the same run.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" 1 once' -s '1' -l 'once' -d 'Print a text summary, even on a terminal.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch demo" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" i interval' -l 'interval' -s 'i' -d 'Sampling interval: 1s, 500ms (default: 1s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" ascii' -l 'ascii' -d 'Draw with ASCII characters only.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" no-color' -l 'no-color' -d 'Disable colours (like NO_COLOR in the environment).'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" bell' -l 'bell' -d 'Ring the bell at each alert.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" mouse' -l 'mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" no-mouse' -l 'no-mouse' -d 'Select, sort and scroll with the mouse; the terminal\'s own selection then needs Shift.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" open-limit' -l 'open-limit' -d 'Warn about windows that stay open longer than this (default: 60s).' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" on-alert' -l 'on-alert' -d 'Run a program at each alert, one at a time and without a shell, with the kind and the arena\'s id as arguments.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run"' -l 'require' -d 'Requirements, separated by commas: locked, nodump, fork-safe, gated, closed-when-idle, guarded, not-swapped, no-findings, no-problems, no-debugger, not-dumpable, emergency-wipe, sealed=NAME, frozen=NAME, arena=NAME, headroom=SIZE, no-open-longer-than=TIME. Default: locked, nodump, fork-safe, no-problems, no-findings.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" policy' -l 'policy' -d 'Read requirements from a file, one per line; # starts a comment.' -rfka ''
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" check' -l 'check' -d 'No screen: check until the command ends, and exit with 6 if a requirement was ever broken.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" adopt' -l 'adopt' -d 'Put the secure memory of its libraries into arenas, without changing the program.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" version' -l 'version' -d 'Show the version.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch run" h help' -s 'h' -l 'help' -d 'Show help information.'
complete -c 'memwatch' -n '__memwatch_should_offer_completions_for_flags_or_options "memwatch help" version' -l 'version' -d 'Show the version.'
