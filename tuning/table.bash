# shellcheck shell=bash disable=SC2034 # what is set here is read by those who source it
# Reads the table of knobs and tells how each stands: what all four programs share. Sourced, never run. It reads under $ROOT
# (empty: this machine). Only put_value writes, and tuning/check does not call it.
#
# look NAME sets VERDICT (ok, change, cannot, unsupported, note), NOW, WANTED and SAY (what is to be done, or why not), and for knobs
# that are files T_PATH[] and T_WANT[].

tuning=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=
SHARDS=
SESSIONS=100000
DATA=
NIC=
PEERS=
CONFIG=
JINDOU=
PROBES=yes

NAMES=()
declare -A NEED WHERE WANT USUAL REMEDY WHY MEASURED UNDO GROUP

# shellcheck source-path=SCRIPTDIR source=probes.bash
. "$tuning/probes.bash"

fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# Leading and trailing blanks off, runs of blanks one space, without a new process.
trimmed() {
    local -a words
    read -r -a words <<<"$1" || true
    TRIMMED="${words[*]}"
}

read_table() {
    local name need where want usual remedy why measured undo group=
    while IFS='|' read -r name need where want usual remedy why measured undo; do
        trimmed "$name"
        name=$TRIMMED
        case $name in
            '' | '#'*) continue ;;
            '== '*)
                group=${name#== }
                continue
                ;;
        esac
        trimmed "$undo"
        [ -n "$TRIMMED" ] || fail "tuning/knobs: the row of $name has not all its columns"
        UNDO[$name]=$TRIMMED
        NAMES+=("$name")
        GROUP[$name]=$group
        trimmed "$need" && NEED[$name]=$TRIMMED
        trimmed "$where" && WHERE[$name]=$TRIMMED
        trimmed "$want" && WANT[$name]=$TRIMMED
        trimmed "$usual" && USUAL[$name]=$TRIMMED
        trimmed "$remedy" && REMEDY[$name]=$TRIMMED
        trimmed "$why" && WHY[$name]=$TRIMMED
        trimmed "$measured" && MEASURED[$name]=$TRIMMED
    done <"$tuning/knobs"
}

is_number() { [[ $1 =~ ^[0-9]+$ ]]; }

# How many processors a list such as 0-3,8 names, and which.
expand_list() {
    local part from to
    EXPANDED=()
    for part in ${1//,/ }; do
        from=${part%-*} to=${part#*-}
        if ! is_number "$from" || ! is_number "$to"; then continue; fi
        while ((from <= to)); do
            EXPANDED+=("$from")
            from=$((from + 1))
        done
    done
}

# Options that all programs have. Returns 1 for one that it does not know; SHIFT is what to shift.
common_option() {
    SHIFT=2
    case $1 in
        --root | --shards | --sessions | --data | --nic | --peers | --config | --jindou)
            [ $# -ge 2 ] || fail "$1 needs a value"
            ;;
    esac
    case $1 in
        --root) ROOT=${2%/} ;;
        --shards) SHARDS=$2 ;;
        --sessions) SESSIONS=$2 ;;
        --data) DATA=$2 ;;
        --nic) NIC=$2 ;;
        --peers) PEERS=${2//,/ } ;;
        --config) CONFIG=$2 ;;
        --jindou) JINDOU=$2 ;;
        --no-probes) PROBES=no SHIFT=1 ;;
        *) return 1 ;;
    esac
}

# One value of a TOML file, as text: config_value SECTION KEY.
config_value() {
    awk -v section="[$1]" -v key="$2" '
        /^[[:space:]]*\[/ { inside = ($1 == section); next }
        inside && $1 == key { sub(/^[^=]*=[[:space:]]*/, ""); sub(/[[:space:]]+#.*$/, ""); gsub(/["\[\],]/, " "); print; exit }
    ' "$CONFIG"
}

from_config() {
    [ -n "$CONFIG" ] || return 0
    [ -r "$CONFIG" ] || fail "cannot read $CONFIG"
    local value
    if [ -z "$SHARDS" ]; then
        trimmed "$(config_value node shards)"
        if is_number "$TRIMMED"; then SHARDS=$TRIMMED; fi
    fi
    if [ -z "$DATA" ]; then
        trimmed "$(config_value node data_dir)"
        DATA=$TRIMMED
    fi
    if [ -z "$PEERS" ]; then
        value=$(config_value cluster seeds)
        trimmed "$value"
        PEERS=$TRIMMED
    fi
}

# What is planned for this node, and what follows from it.
settle_plan() {
    from_config
    contents /proc/self/status || true
    local status=$CONTENTS
    ALLOWED=$(awk '/^Cpus_allowed_list:/ { print $2 }' <<<"$status")
    expand_list "${ALLOWED:-0}"
    CORES=("${EXPANDED[@]}")
    if [ -z "$SHARDS" ]; then SHARDS=${#CORES[@]}; fi
    if ! is_number "$SHARDS" || ((SHARDS == 0)); then fail "--shards $SHARDS is not a number above 0"; fi
    is_number "$SESSIONS" || fail "--sessions $SESSIONS is not a number"
    SHARD_CORES=("${CORES[@]:0:SHARDS}")
    # Sessions, journal files and links of each shard, and some room.
    NOFILE=$((SESSIONS + SHARDS * 256 + 1024))
    TCP_PAGES=$((SESSIONS * 2))
    CONNTRACK=$((SESSIONS * 2))
    DATA=${DATA:-.}
    if [ -z "$NIC" ]; then NIC=$(default_nic); fi
    find_jindou
}

find_jindou() {
    local built=${CARGO_TARGET_DIR:-$tuning/../target}/release/jindou
    [ -z "$JINDOU" ] || return 0
    if [ -x "$built" ]; then
        JINDOU=$built
    else
        JINDOU=$(command -v jindou || true)
    fi
}

# The text of a file under the root, in CONTENTS; empty and false when there is none.
contents() {
    CONTENTS=
    [ -r "$ROOT$1" ] || return 1
    # The kernel refuses some of its files even if they look readable.
    local IFS=$'\n' lines=()
    { mapfile -t lines <"$ROOT$1"; } 2>/dev/null || return 1
    CONTENTS="${lines[*]}"
}

# The value in a file under the root: of choices the one in brackets or parentheses, of masks the digits that count.
value_of() {
    contents "$1" || return 1
    local value=$CONTENTS
    if [[ $value =~ \[([^]]+)\] || $value =~ \(([^\)]+)\) ]]; then value=${BASH_REMATCH[1]}; fi
    trimmed "$value"
    VALUE=$TRIMMED
    case $1 in
        *_cpus)
            VALUE=${VALUE//,/}
            while [ "${VALUE#0}" != "$VALUE" ] && [ ${#VALUE} -gt 1 ]; do VALUE=${VALUE#0}; done
            ;;
    esac
}

# Is VALUE as WANT says?
meets() {
    local value=$1 want=$2 word
    local -a numbers
    read -r -a numbers <<<"$value"
    case $want in
        '= '*) [ "$value" = "${want#= }" ] ;;
        '>= '*) is_number "$value" && ((value >= ${want#>= })) ;;
        '<= '*) is_number "$value" && ((value <= ${want#<= })) ;;
        'third >= '*) is_number "${numbers[2]:-}" && ((numbers[2] >= ${want#third >= })) ;;
        'third <= '*) is_number "${numbers[2]:-}" && ((numbers[2] <= ${want#third <= })) ;;
        'width >= '*) is_number "${numbers[1]:-}" && ((numbers[1] - numbers[0] >= ${want#width >= })) ;;
        'any '*)
            for word in ${want#any }; do
                if [ "$word" = "$value" ]; then return 0; fi
            done
            return 1
            ;;
        *) fail "tuning/knobs: cannot read the want \"$want\"" ;;
    esac
}

# What to write, so that a file that now says VALUE is as WANT says; in SETTING.
setting_for() {
    local value=$1 want=$2
    local -a numbers
    read -r -a numbers <<<"$value"
    SETTING=${want#* }
    case $want in
        third*) SETTING="${numbers[0]:-0} $(within "${numbers[1]:-0}" "$want") ${want##* }" ;;
        width*) SETTING="10240 65535" ;;
        any*)
            SETTING=${SETTING%% *}
            ;;
    esac
}

# The middle one of three numbers may not be above the third.
within() {
    local middle=$1 third=${2##* }
    if [[ $2 == 'third <='* ]] && ((middle > third)); then middle=$third; fi
    echo "$middle"
}

# Puts the plan's numbers into a want.
filled_in() {
    local want=$1
    want=${want//\$SHARDS/$SHARDS}
    want=${want//\$SESSIONS/$SESSIONS}
    want=${want//\$NOFILE/$NOFILE}
    want=${want//\$TCP_PAGES/$TCP_PAGES}
    WANTED=${want//\$CONNTRACK/$CONNTRACK}
}

# Writes a value into a file under the root and reads it again, into VALUE; false when the kernel does not take it.
put_value() {
    local value=$2 rest=$2
    case $1 in
        # The kernel wants masks in words of eight digits.
        *_cpus)
            value=
            while [ ${#rest} -gt 8 ]; do
                value=,${rest: -8}$value
                rest=${rest:0:${#rest}-8}
            done
            value=$rest$value
            ;;
    esac
    { printf '%s\n' "$value" >"$ROOT$1"; } 2>/dev/null || return 1
    value_of "$1"
}

verdict() { VERDICT=$1 NOW=$2 SAY=${3:-}; }

target() { T_PATH+=("$1") T_WANT+=("$2"); }

# The files of a knob and what each should say.
find_targets() {
    local name=$1 where=${WHERE[$1]} path
    T_PATH=() T_WANT=() ABSENT=
    case $where in
        sysctl:*)
            path=${where#sysctl:}
            target "/proc/sys/${path//.//}" "$WANTED"
            ;;
        file:*)
            # The wildcards are to be expanded.
            # shellcheck disable=SC2231
            for path in $ROOT${where#file:}; do
                if [ -e "$path" ]; then target "${path#"$ROOT"}" "$WANTED"; fi
            done
            ;;
        targets:*) "targets_${where#targets:}" ;;
    esac
    if [ ${#T_PATH[@]} -eq 0 ] && [ -z "$ABSENT" ]; then ABSENT=$(why_absent "$name"); fi
}

# One knob: see the head of this file.
look() {
    local name=$1 where=${WHERE[$1]}
    VERDICT='' NOW='' SAY='' HINT='' T_PATH=() T_WANT=()
    filled_in "${WANT[$name]}"
    case $where in
        probe:*)
            "probe_${where#probe:}"
            if [ "$VERDICT" = cannot ] && [ "${NEED[$name]}" = may ]; then VERDICT=note; fi
            ;;
        *)
            find_targets "$name"
            look_at_files "$name"
            ;;
    esac
    case $VERDICT in
        change | note | cannot) SAY=${SAY:-${REMEDY[$name]}}$HINT ;;
    esac
}

look_at_files() {
    local name=$1 number seen='' wrong=0
    for number in "${!T_PATH[@]}"; do
        if ! value_of "${T_PATH[number]}"; then
            verdict unsupported - "$(why_absent "$name" "${T_PATH[number]}")"
            return
        fi
        case ", $seen, " in
            *", $VALUE, "*) ;;
            *) seen=${seen:+$seen, }$VALUE ;;
        esac
        if ! meets "$VALUE" "${T_WANT[number]}"; then wrong=$((wrong + 1)); fi
    done
    if [ ${#T_PATH[@]} -eq 0 ]; then
        verdict unsupported - "$ABSENT"
    elif [ "$wrong" -eq 0 ]; then
        verdict ok "$seen"
    elif [ "${NEED[$name]}" = may ]; then
        verdict note "$seen" "may help, measure it: tuning/apply $name, tuning/measure $name"
    else
        verdict change "$seen" "tuning/apply $name"
    fi
}
