# shellcheck shell=bash
# What the table's rows call: targets_NAME lists files and what each should say, probe_NAME finds out what cannot be set by writing
# a file. Sourced by tuning/table.bash, whose words it uses. Everything is read under $ROOT; what must run on the real machine (rings,
# writes, packets) is left out in a sandboxed root. Nothing here changes anything, and what takes time is bounded.

# Why a knob is not there, where more can be said than that.
why_absent() {
    case $1 in
        governor | energy) echo "no frequency control here: the hypervisor or the firmware decides" ;;
        turbo) echo "no boost switch here: the hypervisor or the firmware decides" ;;
        preempt | base_slice) echo "debugfs is not mounted (mount -t debugfs debugfs /sys/kernel/debug), or this kernel keeps it closed" ;;
        halt_poll) echo "not a guest with the haltpoll driver" ;;
        io_uring_disabled) echo "this kernel (before 6.6) cannot forbid it by a sysctl" ;;
        conntrack) echo "no connection tracking is loaded, which is best" ;;
        numa_balancing) echo "this kernel has no NUMA balancing" ;;
        c_states) echo "no idle states are shown here" ;;
        *) echo "this machine has no ${2:-such file}" ;;
    esac
}

# Why nothing was tried out; in ABSENT.
sandboxed() {
    ABSENT=
    if [ -n "$ROOT" ]; then
        ABSENT="not tried in a sandboxed root"
    elif [ "$PROBES" = no ]; then
        ABSENT="left out (--no-probes)"
    fi
    [ -n "$ABSENT" ]
}

# --- kernel and limits

probe_kernel() {
    contents /proc/sys/kernel/osrelease || { verdict unsupported - "the kernel's version is not shown here"; return; }
    local release=$CONTENTS major minor
    major=${release%%.*} minor=${release#*.}
    minor=${minor%%[!0-9]*}
    if is_number "$major" && is_number "$minor" && ((major * 1000 + minor >= 6001)); then
        verdict ok "$release"
    else
        verdict cannot "$release"
    fi
}

# The lines of `jindou probe`, asked once.
ask_jindou() {
    if sandboxed; then return 1; fi
    if [ -z "${JINDOU:-}" ]; then
        ABSENT="no jindou binary found: --jindou FILE"
        return 1
    fi
    if [ -z "${ANSWERS:-}" ]; then
        ANSWERS=$(timeout 20 "$JINDOU" probe --data "$(existing "$DATA")" --milliseconds 1000 2>&1) || true
    fi
}

# The directory itself, or the nearest one above it that exists.
existing() {
    local directory
    directory=$(realpath -m -- "$1")
    while [ ! -d "$directory" ]; do directory=$(dirname "$directory"); done
    echo "$directory"
}

# What `jindou probe` says of one thing, in ANSWER.
answer() {
    ask_jindou || return 1
    ANSWER=$(sed -n "s/^$1 //p" <<<"$ANSWERS")
    if [ -z "$ANSWER" ]; then
        ABSENT="$JINDOU cannot probe: ${ANSWERS%%$'\n'*}"
        return 1
    fi
}

probe_io_uring_ring() {
    if ! answer io_uring; then verdict unsupported - "$ABSENT"; return; fi
    case $ANSWER in
        ok) verdict ok "a ring is made" ;;
        *) verdict cannot refused "${ANSWER#refused: }" ;;
    esac
}

# A limit of the service when its unit is installed, else of this shell: sets LIMIT and OF.
limit_of() {
    local key=$1 line=$2 unit=/etc/systemd/system/jindou.service
    OF="this shell"
    if contents "$unit"; then
        LIMIT=$(sed -n "s/^$key=//p" <<<"$CONTENTS" | tail -1)
        OF="the unit"
        if [ -n "$LIMIT" ]; then return; fi
    fi
    OF="this shell"
    contents /proc/self/limits || true
    # The hard limit: a node raises its soft limits itself.
    LIMIT=$(awk -v line="$line" 'index($0, line) == 1 { $0 = substr($0, 26); print $2 }' <<<"$CONTENTS")
    if [ -z "$LIMIT" ]; then
        verdict unsupported - "this shell's limits are not shown here"
        return 1
    fi
}

# 8M, 512K and infinity as systemd writes them, in bytes.
in_bytes() {
    case $1 in
        *K) echo $((${1%K} << 10)) ;;
        *M) echo $((${1%M} << 20)) ;;
        *G) echo $((${1%G} << 30)) ;;
        infinity | unlimited) echo $((1 << 62)) ;;
        *) echo "${1:-0}" ;;
    esac
}

probe_memlock() {
    local needed=$((SHARDS * 256)) have capabilities
    if ((needed < 512)); then needed=512; fi
    limit_of LimitMEMLOCK "Max locked memory" || return 0
    have=$(($(in_bytes "$LIMIT") >> 10))
    contents /proc/self/status || true
    capabilities=$(sed -n 's/^CapEff:[[:space:]]*//p' <<<"$CONTENTS")
    WANTED=">= $needed KiB for $SHARDS shards"
    if ((have >= needed)); then
        verdict ok "$(kib "$have"), $OF"
    elif [ "$OF" != "the unit" ] && [ -n "$capabilities" ] && ((0x$capabilities >> 14 & 1)); then
        verdict ok "no bound (CAP_IPC_LOCK)"
    else
        verdict cannot "$(kib "$have"), $OF" "LimitMEMLOCK=${needed}K in the unit, or ulimit -l $needed"
    fi
}

kib() { if (($1 >= 1 << 50)); then echo "no bound"; else echo "$1 KiB"; fi; }

probe_nofile() {
    local have
    limit_of LimitNOFILE "Max open files" || return 0
    have=$(in_bytes "$LIMIT")
    WANTED=">= $NOFILE for $SESSIONS sessions"
    if ((have >= NOFILE)); then
        verdict ok "$LIMIT, $OF"
    else
        verdict cannot "$LIMIT, $OF" "LimitNOFILE=$NOFILE in the unit, or ulimit -n $NOFILE"
    fi
}

# --- network card

default_nic() {
    contents /proc/net/route || return 0
    awk '$2 == "00000000" { print $1; exit }' <<<"$CONTENTS"
}

has_nic() {
    if [ -z "$NIC" ]; then
        ABSENT="no network card with a default route: --nic NAME"
    elif [ ! -d "$ROOT/sys/class/net/$NIC" ]; then
        ABSENT="there is no card $NIC"
    else
        return 0
    fi
    return 1
}

# Queues of one direction, in QUEUES.
queues() {
    local path
    QUEUES=()
    for path in "$ROOT/sys/class/net/$NIC/queues/$1"-*; do
        if [ -d "$path" ]; then QUEUES+=("${path#"$ROOT"}"); fi
    done
}

probe_nic_queues() {
    has_nic || { verdict unsupported - "$ABSENT"; return; }
    queues rx
    WANTED="$SHARDS, one per shard"
    local now="${#QUEUES[@]} of $NIC"
    if ((${#QUEUES[@]} >= SHARDS)); then
        verdict ok "$now"
    elif [ ! -e "$ROOT/sys/class/net/$NIC/device" ]; then
        verdict unsupported "$now" "a virtual card: it has no queues of its own"
    else
        verdict cannot "$now" "ethtool -L $NIC combined $SHARDS if the card has them (ethtool -l $NIC); rps does it in software"
    fi
}

# Mask of processors as /sys wants it, from their numbers.
mask_of() {
    local core mask=0
    for core in "$@"; do
        # Above 62 the mask has several words, and bash has one.
        ((core < 62)) || { echo; return; }
        mask=$((mask | 1 << core))
    done
    printf '%x\n' "$mask"
}

core_of_queue() { CORE=${SHARD_CORES[$1 % ${#SHARD_CORES[@]}]}; }

# Interrupts of a device's data queues: target each to the core of the shard with the queue's number.
targets_of_irqs() {
    local device=$1 directory irq label
    directory=$(readlink -f "$ROOT$device" || true)
    while [ -n "$directory" ] && [ ! -d "$directory/msi_irqs" ]; do
        [[ $directory == "$ROOT"/sys/devices/*/* ]] || { ABSENT="the card's interrupts are not shown here"; return; }
        directory=${directory%/*}
    done
    contents /proc/interrupts || return 0
    for irq in "$directory"/msi_irqs/*; do
        irq=${irq##*/}
        label=$(awk -v irq="$irq:" '$1 == irq { print $NF }' <<<"$CONTENTS")
        case $label in
            *config* | *event* | *async* | *ctrl* | '') continue ;;
        esac
        label=${label%%@*}
        label=${label##*[!0-9]}
        if is_number "$label" && [ -e "$ROOT/proc/irq/$irq/smp_affinity_list" ]; then
            core_of_queue "$label"
            target "/proc/irq/$irq/smp_affinity_list" "= $CORE"
        fi
    done
    [ ${#T_PATH[@]} -gt 0 ] || ABSENT="no interrupt of it can be told to be a queue's"
    if runs irqbalance; then HINT="; irqbalance runs and would move them again: systemctl disable --now irqbalance"; fi
}

targets_nic_irq() {
    has_nic || return 0
    WANTED="queue n on shard n's core"
    targets_of_irqs "/sys/class/net/$NIC/device"
}

targets_rps() {
    has_nic || return 0
    local path mask=0
    queues rx
    WANTED="off: enough queues"
    if ((${#QUEUES[@]} < SHARDS)); then
        mask=$(mask_of "${SHARD_CORES[@]}")
        WANTED="all shards' cores ($mask)"
    fi
    if [ -z "$mask" ]; then
        ABSENT="more than 62 cores: set the mask by hand"
        return
    fi
    for path in "${QUEUES[@]}"; do
        if [ -e "$ROOT$path/rps_cpus" ]; then target "$path/rps_cpus" "= $mask"; fi
    done
}

targets_xps() {
    has_nic || return 0
    local path mask
    queues tx
    WANTED="queue n from shard n's core"
    if ((${#QUEUES[@]} < 2)); then
        ABSENT="$NIC has one queue for all cores"
        return
    fi
    for path in "${QUEUES[@]}"; do
        core_of_queue "${path##*-}"
        mask=$(mask_of "$CORE")
        if [ -n "$mask" ] && [ -e "$ROOT$path/xps_cpus" ]; then target "$path/xps_cpus" "= $mask"; fi
    done
}

targets_rfs() {
    has_nic || return 0
    local path flows=0
    queues rx
    if ((${#QUEUES[@]} < SHARDS)); then flows=32768; fi
    WANTED="$flows flows"
    target /proc/sys/net/core/rps_sock_flow_entries "= $flows"
    for path in "${QUEUES[@]}"; do
        if [ -e "$ROOT$path/rps_flow_cnt" ]; then
            target "$path/rps_flow_cnt" "= $((flows / ${#QUEUES[@]}))"
        fi
    done
}

probe_mtu() {
    has_nic || { verdict unsupported - "$ABSENT"; return; }
    value_of "/sys/class/net/$NIC/mtu" || { verdict unsupported - "this card does not say"; return; }
    local peer whole=0 mtu=$VALUE
    if ((mtu < 1400)); then
        verdict cannot "$mtu of $NIC"
    elif [ -z "$PEERS" ]; then
        verdict ok "$mtu of $NIC" "the way to peers is tried with --peers A,B or --config FILE"
    elif sandboxed || ! command -v ping >/dev/null; then
        verdict ok "$mtu of $NIC" "the way to peers was not tried: ${ABSENT:-no ping here}"
    else
        for peer in $PEERS; do
            if ping -M "do" -s $((mtu - 28)) -c 1 -W 1 -q "${peer%:*}" >/dev/null 2>&1; then whole=$((whole + 1)); fi
        done
        # shellcheck disable=SC2086
        set -- $PEERS
        if ((whole == $#)); then verdict ok "$mtu, whole to $# peers"; else verdict cannot "$mtu, whole to $whole of $# peers"; fi
    fi
}

# Microseconds that a TCP connection to HOST:PORT takes to be made; three are tried and the shortest counts.
connect_us() {
    # The inner shell's own variables.
    # shellcheck disable=SC2016
    timeout 4 bash -c 'best=
        for _ in 1 2 3; do
            before=${EPOCHREALTIME/[.,]/}
            exec 3<>"/dev/tcp/$1/$2" || exit 1
            took=$((${EPOCHREALTIME/[.,]/} - before))
            exec 3>&-
            if [ -z "$best" ] || ((took < best)); then best=$took; fi
        done
        echo "$best"' connect "${1%:*}" "${1##*:}" 2>/dev/null
}

probe_rtt() {
    if [ -z "$PEERS" ]; then verdict note - "no peers are named: --peers HOST:PORT,... or --config FILE with cluster.seeds"; return; fi
    if sandboxed; then verdict unsupported - "$ABSENT"; return; fi
    local peer us worst=0 mute=0
    for peer in $PEERS; do
        if us=$(connect_us "$peer"); then
            if ((us > worst)); then worst=$us; fi
        else
            mute=$((mute + 1))
        fi
    done
    if ((mute > 0)); then
        verdict cannot "$mute peers do not answer" "start them, or open their cluster port (TCP and UDP, one port per shard)"
    elif ((worst < 1000)); then
        verdict ok "$worst us at most"
    else
        verdict cannot "$worst us at most"
    fi
}

# --- cores

# States that take long to wake from are to be switched off.
targets_c_states() {
    local core state latency shallow=
    WANTED="none deeper than 10 us"
    for core in "${SHARD_CORES[@]}"; do
        for state in "$ROOT/sys/devices/system/cpu/cpu$core/cpuidle/state"*; do
            [ -e "$state/disable" ] || continue
            latency=$(cat "$state/latency" 2>/dev/null || echo 0)
            if is_number "$latency" && ((latency > 10)); then
                target "${state#"$ROOT"}/disable" "= 1"
            else
                shallow=yes
            fi
        done
    done
    if [ ${#T_PATH[@]} -eq 0 ] && [ -n "$shallow" ]; then ABSENT="every state here wakes within 10 us"; fi
}

targets_turbo() {
    WANTED=on
    if [ -e "$ROOT/sys/devices/system/cpu/intel_pstate/no_turbo" ]; then
        target /sys/devices/system/cpu/intel_pstate/no_turbo "= 0"
    elif [ -e "$ROOT/sys/devices/system/cpu/cpufreq/boost" ]; then
        target /sys/devices/system/cpu/cpufreq/boost "= 1"
    fi
}

probe_smt() {
    local core siblings taken=' '
    for core in "${SHARD_CORES[@]}"; do
        value_of "/sys/devices/system/cpu/cpu$core/topology/thread_siblings_list" || {
            verdict unsupported - "the processor's threads are not shown here"
            return
        }
        siblings=$VALUE
        if [[ $taken == *" $siblings "* ]]; then
            verdict cannot "two shards on threads $siblings"
            return
        fi
        taken="$taken$siblings "
    done
    verdict ok "$SHARDS shards, $SHARDS cores"
}

probe_isolation() {
    local isolated nohz
    contents /sys/devices/system/cpu/isolated || true
    isolated=$CONTENTS
    contents /sys/devices/system/cpu/nohz_full || true
    nohz=${CONTENTS/(null)/}
    if [ -n "$isolated" ] && [ -n "$nohz" ]; then
        verdict ok "$isolated, nohz_full $nohz"
    else
        verdict note "isolated: ${isolated:-none}, nohz_full: ${nohz:-none}"
    fi
}

probe_cpuset() {
    WANTED="$SHARDS cores for $SHARDS shards"
    if ((${#CORES[@]} >= SHARDS)); then verdict ok "${#CORES[@]} cores (${ALLOWED:-?})"; else verdict cannot "${#CORES[@]} cores (${ALLOWED:-?})"; fi
}

# The quota of this shell's cgroup and of those above it: version 2, then version 1.
probe_cpu_quota() {
    local path quota period
    contents /proc/self/cgroup || { verdict unsupported - "no cgroups here"; return; }
    path=$(sed -n 's/^0:://p' <<<"$CONTENTS")
    while [ -n "$path" ]; do
        if contents "/sys/fs/cgroup$path/cpu.max" && [[ $CONTENTS != max* ]]; then
            read -r quota period <<<"$CONTENTS"
            verdict cannot "$((quota * 100 / period)) % of a core"
            return
        fi
        path=${path%/*}
    done
    path=$(sed -n 's/^[0-9]*:[^:]*\bcpu\b[^:]*://p' <<<"$CONTENTS")
    if contents "/sys/fs/cgroup/cpu$path/cpu.cfs_quota_us" && ((CONTENTS > 0)); then
        verdict cannot "$CONTENTS us of each period"
        return
    fi
    verdict ok "none for this shell"
}

# Is a device on the memory node of the shards' cores?
numa_of() {
    local what=$1 node
    contents /sys/devices/system/node/online || { verdict unsupported - "this kernel knows no NUMA nodes"; return; }
    if [[ $CONTENTS != *[,-]* ]]; then verdict ok "one node"; return; fi
    if ! contents "$2" || ((CONTENTS < 0)); then verdict unsupported - "$what does not say where it is"; return; fi
    node=$CONTENTS
    contents "/sys/devices/system/node/node$node/cpulist" || true
    expand_list "$CONTENTS"
    if [[ " ${EXPANDED[*]} " == *" ${SHARD_CORES[0]} "* ]]; then
        verdict ok "node $node, as shard 0"
    else
        verdict cannot "$what on node $node"
    fi
}

probe_numa_nic() {
    has_nic || { verdict unsupported - "$ABSENT"; return; }
    numa_of "$NIC" "/sys/class/net/$NIC/device/numa_node"
}

probe_numa_disk() {
    find_disks || { verdict unsupported - "$ABSENT"; return; }
    numa_of "${DISKS[0]##*/}" "${DISKS[0]}/device/device/numa_node"
}

# --- clock and memory

# Which of these programs runs; in RUNS.
runs() {
    local path name wanted
    RUNS=
    for path in "$ROOT"/proc/[0-9]*/comm; do
        { read -r name <"$path"; } 2>/dev/null || continue
        for wanted in "$@"; do
            if [ "$name" = "$wanted" ]; then RUNS=$name; fi
        done
    done
    [ -n "$RUNS" ]
}

probe_clock_sync() {
    # The kernel keeps fifteen letters of a name.
    if runs chronyd ntpd systemd-timesyn ptp4l phc2sys; then
        verdict ok "$RUNS runs"
        return
    fi
    if [ -z "$ROOT" ] && [ "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)" = yes ]; then
        verdict ok "in step, systemd says"
        return
    fi
    verdict cannot "no time daemon runs"
}

probe_swap() {
    contents /proc/swaps || { verdict ok "none: not in this kernel"; return; }
    local count
    count=$(awk 'NR > 1' <<<"$CONTENTS" | grep -c . || true)
    if ((count == 0)); then verdict ok none; else verdict cannot "$count areas"; fi
}

# --- disk

# The disks below the data directory, in DISKS, and its file system, in FILE_SYSTEM.
find_disks() {
    local path mount device number rest best=-1 line
    DISKS=() FILE_SYSTEM='' ABSENT="the data directory is on no disk of its own"
    path=$(realpath -m -- "$DATA")
    contents /proc/self/mountinfo || return 1
    while read -r line; do
        read -r _ _ device _ mount rest <<<"$line"
        if [[ $path/ == "${mount%/}"/* ]] && ((${#mount} >= best)); then
            best=${#mount}
            number=$device
            read -r FILE_SYSTEM _ <<<"${rest#* - }"
        fi
    done <<<"$CONTENTS"
    [ -n "${number:-}" ] || return 1
    disks_under "$(readlink -f "$ROOT/sys/dev/block/$number" || true)"
    [ ${#DISKS[@]} -gt 0 ]
}

# A partition's disk, or the disks that a volume is made of.
disks_under() {
    local directory=$1 part found=
    [ -d "$directory" ] || return 0
    for part in "$directory"/slaves/*; do
        if [ -e "$part" ]; then
            found=yes
            disks_under "$(readlink -f "$part")"
        fi
    done
    if [ -n "$found" ]; then return; fi
    if [ -e "$directory/partition" ]; then directory=${directory%/*}; fi
    DISKS+=("${directory#"$ROOT"}")
}

targets_disk_scheduler() {
    local disk
    WANTED="= none"
    find_disks || return 0
    for disk in "${DISKS[@]}"; do
        if [ -e "$ROOT$disk/queue/scheduler" ]; then target "$disk/queue/scheduler" "= none"; fi
    done
}

targets_disk_irq() {
    local disk
    WANTED="queue n on shard n's core"
    find_disks || return 0
    for disk in "${DISKS[@]}"; do targets_of_irqs "$disk/device"; done
}

probe_file_system() {
    find_disks || true
    case $FILE_SYSTEM in
        '') verdict unsupported - "the mount of $DATA is not shown here" ;;
        ext4 | xfs) verdict ok "$FILE_SYSTEM" ;;
        *) verdict cannot "$FILE_SYSTEM" ;;
    esac
}

# Where there is no binary yet: the mean of two hundred synchronous writes by dd, or nothing where direct writes are refused.
dd_mean_us() {
    local file before after
    file=$(mktemp "$(existing "$DATA")/jindou-probe.XXXXXX" 2>/dev/null) || return 1
    dd if=/dev/zero of="$file" bs=1M count=4 conv=fsync status=none 2>/dev/null
    before=${EPOCHREALTIME/[.,]/}
    timeout 5 dd if=/dev/zero of="$file" bs=4k count=200 oflag=direct,dsync conv=notrunc status=none 2>/dev/null || before=
    after=${EPOCHREALTIME/[.,]/}
    rm -f "$file"
    if [ -n "$before" ]; then echo $(((after - before) / 200)); else return 1; fi
}

probe_disk_latency() {
    local p50 p99 mean synced=''
    WANTED="p99 <= 2000 us"
    if sandboxed; then verdict unsupported - "$ABSENT"; return; fi
    if ! answer direct_dsync; then
        if mean=$(dd_mean_us); then verdict note "mean $mean us (dd, 200 writes)" "percentiles need the binary: --jindou FILE"; else verdict unsupported - "$ABSENT"; fi
        return
    fi
    if [[ $ANSWER != ok* ]]; then verdict cannot "direct writes refused" "${ANSWER#refused: }: another file system or directory (--data)"; return; fi
    p50=${ANSWER#*p50_us=} p50=${p50%% *} p99=${ANSWER#*p99_us=} p99=${p99%% *}
    if answer fdatasync && [[ $ANSWER == ok* ]]; then
        ANSWER="write and fdatasync: p50 ${ANSWER#*p50_us=}"
        synced="${ANSWER/p99_us=/p99 } us; the journal takes the faster way, O_DIRECT with O_DSYNC"
        synced=${synced/max_us=/max }
    fi
    if ((p99 <= 2000)); then
        verdict ok "p50 $p50, p99 $p99 us" "${synced:-}"
    else
        verdict cannot "p50 $p50, p99 $p99 us" "${REMEDY[disk_latency]}${synced:+; $synced}"
    fi
}

probe_power_loss() {
    find_disks || { verdict unsupported - "$ABSENT"; return; }
    value_of "${DISKS[0]}/queue/write_cache" || { verdict unsupported - "the disk does not say"; return; }
    case $VALUE in
        'write through') verdict ok "${DISKS[0]##*/}: $VALUE" ;;
        *) verdict note "${DISKS[0]##*/}: $VALUE" ;;
    esac
}
