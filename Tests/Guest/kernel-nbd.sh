#!/bin/bash
# Shows that the Linux kernel's NBD client (nbd.ko, attached by nbd-client) works on volumes of repld, on a machine that
# has no nbd.ko: boots Debian's user-mode Linux, an older kernel that runs as a process, and does everything in there.
#
#     Tests/Guest/kernel-nbd.sh [DIRECTORY]
#
# DIRECTORY holds repld and replctl; without it both are built (swift build -c release). Needs Debian 12 on x86-64 and,
# to fetch packages, root. Packages that are not installed are unpacked in a temporary directory, nothing is installed.
# The guest sees the host's files read-only, and everything that it makes is in its own memory or in that directory.
#
# On each kind of element (files, block devices, block devices of 4 KiB blocks) repld mirrors a volume, and with each way
# to attach it (block sizes, connections, netlink and ioctl, unix socket and TCP) the kernel makes a file system on it,
# writes and syncs files, discards, is detached and finds everything again. Then repld is stopped and started, and killed
# under a mounted file system. Whenever nothing is written, both elements are compared byte for byte.
#
# Prints a line for each check; ends with "N passed, N failed", and with 1 when anything failed.
set -uo pipefail
export LC_ALL=C

# --- in the guest ----------------------------------------------------------------------------------------------------

passed=0
failed=0
compared=()

# check WORDS COMMAND...: one line and, when it failed, what the command printed.
check() {
    local words=$1
    shift
    if "$@" >/run/bed/output 2>&1 </dev/null; then
        passed=$((passed + 1))
        echo "ok      $words"
    else
        failed=$((failed + 1))
        echo "FAILED  $words ($*)"
        tail -20 /run/bed/output
    fi
}

fails() { ! "$@"; }

# is WORDS FOUND EXPECTED
is() { check "$1: $2" [ "$2" = "$3" ]; }

# until_true SECONDS COMMAND...
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

# Runs a module tool by the name that Debian's kmod wants to be called by.
kmod_as() { (exec -a "$1" "$kmod" "${@:2}"); }

repld_log=/run/bed/repld.log
nbd_socket=/run/bed/nbd.sock
nbd_port=10809
export REPLD_CONTROL=/run/bed/control.sock

start_repld() {
    "$bin/repld" --state-dir /run/bed/state --control "$REPLD_CONTROL" --nbd-socket "$nbd_socket" \
        --nbd-listen "127.0.0.1:$nbd_port" >>"$repld_log" 2>&1 &
    repld=$!
    until_true 60 "$bin/replctl" daemon || { echo "repld does not answer"; cat "$repld_log"; return 1; }
}

stop_repld() {
    kill -TERM "$repld"
    wait "$repld"
}

# attach VOLUME ARGUMENTS...: nbd-client; the device is there and has its size when this returns.
attach() {
    local volume=$1
    shift
    local where=(-unix "$nbd_socket")
    if [ "${1:-}" = tcp ]; then
        shift
        where=(127.0.0.1 "$nbd_port")
    fi
    nbd-client "${where[@]}" /dev/nbd0 -N "$volume" "$@" </dev/null || return 1
    until_true 10 is_attached
}

is_attached() { nbd-client -c /dev/nbd0 && [ "$(<"$queue/../size")" -gt 0 ]; }

# Returns when the kernel has let go and repld has seen every connection end.
detach() {
    nbd-client -d /dev/nbd0 "$@" </dev/null || return 1
    until_true 20 eval '[ "$(<"$queue/../size")" -eq 0 ] && ! nbd-client -c /dev/nbd0 && [ "$(connections)" = 0 ]'
}

connections() { "$bin/replctl" volume show "$volume" --json | sed -n 's/.*"connectionCount" *: *\([0-9]*\).*/\1/p'; }
copy_state() { "$bin/replctl" pair show "$volume-mirror" --json | tr -d ' \n' | sed -n 's/.*"copyState":{[^}]*"name":"\([A-Za-z]*\)".*/\1/p'; }
is_zero() { cmp -n "$2" -i "$1:0" /dev/nbd0 /dev/zero; }
queue=/sys/block/nbd0/queue
files=/run/bed/files

# What the kernel was told of the volume.
check_limits() {
    local block=$1
    is "size in bytes" $(($(<"$queue/../size") * 512)) "$element_bytes"
    is "logical block" "$(<"$queue/logical_block_size")" "$block"
    is "write cache" "$(<"$queue/write_cache")" "write back"
    is "FUA" "$(<"$queue/fua")" 1
    check "discard is offered: $(<"$queue/discard_max_bytes")" [ "$(<"$queue/discard_max_bytes")" -gt 0 ]
}

# Data that no two runs share, in file DESTINATION: KiB.
random_file() { dd if=/dev/urandom of="$1" bs=1K count="$2" conv=fsync status=none; }

# Everything that is done with one way to attach a volume: use VOLUME BLOCK CONNECTIONS ARGUMENTS...
use() {
    local volume=$1 block=$2 count=$3 begun=$SECONDS
    shift 3
    local ending=()
    [[ " $* " == *" -L "* ]] && ending=(-L)
    echo "-- $volume: nbd-client $*"
    check "attach" attach "$volume" "$@"
    check_limits "$block"
    is "connections" "$(connections)" "$count"

    # Raw: writes of one block and of megabytes, direct, synchronous and not; discards; zeroes.
    check "raw: write 8 MiB" dd if=/run/bed/pattern of=/dev/nbd0 bs=1M count=8 oflag=direct conv=notrunc
    check "raw: write one block with FUA" dd if=/run/bed/pattern of=/dev/nbd0 bs="$block" skip=9 seek=$((16777216 / block)) count=1 oflag=direct,dsync conv=notrunc
    check "raw: read back" cmp -n 8388608 /run/bed/pattern /dev/nbd0
    check "raw: discard 4 MiB and some blocks" blkdiscard -o $((1048576 + block)) -l $((4194304 + 3 * block)) /dev/nbd0
    check "raw: discarded blocks read as zeroes" is_zero $((1048576 + block)) $((4194304 + 3 * block))
    check "raw: the block before is as it was" cmp -n $((1048576 + block)) /run/bed/pattern /dev/nbd0
    check "raw: the block behind is as it was" cmp -i $((5242880 + 4 * block)) -n "$block" /run/bed/pattern /dev/nbd0
    check "raw: zero out" blkdiscard -z -o 6291456 -l 1048576 /dev/nbd0
    check "raw: zeroed blocks read as zeroes" is_zero 6291456 1048576
    check "raw: 32 random writes at once, verified" fio --name=v --filename=/dev/nbd0 --ioengine=libaio --direct=1 \
        --iodepth=32 --rw=randwrite --bsrange="$block-256k" --blockalign="$block" --size=32M --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --fsync=32 --randrepeat=0 --minimal

    # A file system.
    check "blkdiscard of everything" blkdiscard /dev/nbd0
    check "mkfs.ext4" mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0
    check "mount" mount -t ext4 -o discard /dev/nbd0 /run/bed/mnt
    check "write files and fsync" write_files
    check "remove some" rm -r /run/bed/mnt/doomed
    check "fstrim" fstrim /run/bed/mnt
    check "unmount" umount /run/bed/mnt
    check "fsck" fsck.ext4 -f -n /dev/nbd0
    check "detach" detach "${ending[@]}"
    compare
    check "attach again" attach "$volume" "$@"
    check "fsck again" fsck.ext4 -f -n /dev/nbd0
    check "mount again" mount -t ext4 -o ro /dev/nbd0 /run/bed/mnt
    check "every file is as it was" sha256sum --quiet -c /run/bed/$volume.sums
    check "unmount again" umount /run/bed/mnt
    check "detach again" detach "${ending[@]}"
    is "pair" "$(copy_state)" Synchronized
    echo "   $((SECONDS - begun)) s"
}

write_files() {
    local place=/run/bed/mnt index
    mkdir -p $place/many $place/doomed || return 1
    random_file $place/large 12288 && random_file $place/odd 333 && random_file $place/doomed/large 8192 || return 1
    for index in $(seq 40); do echo "$index $RANDOM $RANDOM" >$place/many/$index || return 1; done
    sync -f $place || return 1
    find $place -type f ! -path '*/doomed/*' -exec sha256sum {} + >/run/bed/$volume.sums
}

# Both elements, through whatever the kernel knows them by.
compare() { check "both elements are equal, $element_bytes bytes" cmp -n "$element_bytes" "$source_element" "$target_element"; }

# one_kind NAME SOURCE TARGET: one kind of element, as volume NAME; then ways to attach, each "BLOCK CONNECTIONS ARGUMENTS".
one_kind() {
    local volume=$1 way
    source_element=$2 target_element=$3
    shift 3
    compared+=("$source_element $target_element")
    echo "== $volume: $source_element mirrored to $target_element"
    check "volume add" "$bin/replctl" volume add "$volume" --element "$source_element"
    check "pair create --wait" "$bin/replctl" pair create --source "$volume" --target "$target_element" --wait --timeout 5m
    # shellcheck disable=SC2086
    for way in "$@"; do use "$volume" $way; done
}

# nbd-client does not ask for the volume's block size. Where that is larger than what it was told, whole blocks work, a
# part of a block is refused and nothing is torn; this is why README.md wants -b there.
too_small_blocks() {
    local volume=$1
    echo "-- $volume: nbd-client -b 512 on blocks of 4096"
    check "attach" attach "$volume" -b 512
    check "whole blocks can be written" dd if=/run/bed/pattern of=/dev/nbd0 bs=4096 count=4 oflag=direct conv=notrunc
    check "half a block cannot" fails dd if=/dev/zero of=/dev/nbd0 bs=512 seek=1 count=4 oflag=direct conv=notrunc
    check "and is as it was" cmp -n 16384 /run/bed/pattern /dev/nbd0
    check "detach" detach
    compare
}

# A volume is found again by a repld that was stopped, and by one that was killed under a mounted file system.
restart() {
    local volume=files
    echo "== stop repld, and start it again"
    check "repld stops cleanly" stop_repld
    for pair in "${compared[@]}"; do
        read -r source_element target_element <<<"$pair"
        compare
    done
    source_element=/run/bed/source target_element=/run/bed/target
    check "repld starts again" start_repld
    is "pair" "$(copy_state)" Synchronized
    # Without -t the kernel waits for ever for what was in flight when its only connection ended.
    check "attach" attach "$volume" -b 512 -t 5
    check "mount" mount -t ext4 /dev/nbd0 /run/bed/mnt
    check "every file is as it was" sha256sum --quiet -c /run/bed/$volume.sums
    echo "== kill repld under the mounted file system"
    check "write a file and fsync" random_file /run/bed/mnt/before 4096
    sha256sum /run/bed/mnt/before >>/run/bed/$volume.sums
    (dd if=/dev/urandom of=/run/bed/mnt/during bs=64K oflag=direct status=none 2>/dev/null) &
    local during=$!
    sleep 1
    kill -KILL "$repld"
    { wait "$repld"; } 2>/dev/null
    check "what is in flight fails after the time limit" until_true 60 fails kill -0 $during
    check "a write fails when repld is gone" fails random_file /run/bed/mnt/after 1024
    wait $during
    check "unmount" umount /run/bed/mnt
    check "detach" nbd-client -d /dev/nbd0
    check "the kernel has let go" until_true 20 fails nbd-client -c /dev/nbd0
    check "repld starts again" start_repld
    check "the pair is in step again" until_true 60 eval '[ "$(copy_state)" = Synchronized ]'
    compare
    check "attach" attach "$volume" -b 512
    check "mount, which replays the journal" mount -t ext4 /dev/nbd0 /run/bed/mnt
    check "every file that was synced is as it was" sha256sum --quiet -c /run/bed/$volume.sums
    check "unmount" umount /run/bed/mnt
    check "fsck" fsck.ext4 -f -n /dev/nbd0
    check "detach" detach
}

inside() {
    . "$1/parameters"
    mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t tmpfs tmp /run || return 1
    mountpoint -q /dev || mount -t devtmpfs dev /dev || return 1
    mkdir -p /run/bed/mnt /run/bed/state /run/bed/tmp /dev/shm /run/result
    mount -t tmpfs tmp /dev/shm
    mount -t hostfs -o "$1/result" result /run/result || return 1
    export HOME=/run/bed TMPDIR=/run/bed/tmp
    cd /run/bed || return 1
    echo "== guest: $(uname -sr), $(grep -c ^processor /proc/cpuinfo) CPU, booted in $(cut -d' ' -f1 /proc/uptime) s"
    for module in nbd loop; do
        kmod_as insmod "$modules/$(uname -r)/kernel/drivers/block/$module.ko" || { echo "no module $module"; return 1; }
    done
    ip link set lo up
    dd if=/dev/urandom of=/run/bed/pattern bs=1M count=16 status=none
    truncate -s "$element_bytes" /run/bed/source /run/bed/target /run/bed/source4 /run/bed/target4
    # A target that is not blank, so that the first copy has something to find.
    dd if=/run/bed/pattern of=/run/bed/target bs=1M seek=20 conv=notrunc status=none
    source4=$(losetup -f --show -b 4096 /run/bed/source4) && target4=$(losetup -f --show -b 4096 /run/bed/target4) || return 1
    check "repld starts" start_repld
    grep -o 'features=.*' "$repld_log"
    check "repld uses everything that this kernel has" fails grep -q 'features=.*; without' "$repld_log"

    one_kind files /run/bed/source /run/bed/target "512 1 -b 512" "4096 1 -b 4096" "512 2 -b 512 -C 2" \
        "4096 4 -b 4096 -C 4" "512 1 -L -b 512" "512 2 tcp -b 512 -C 2"
    one_kind devices /dev/ubda /dev/ubdb "512 1 -b 512" "4096 2 -b 4096 -C 2"
    one_kind devices4k "$source4" "$target4" "4096 1 -b 4096"
    too_small_blocks devices4k
    restart
    echo "== the end"
    check "repld stops cleanly" stop_repld
    losetup -d "$source4" "$target4"
    if grep -E ' (error|critical): |Fatal error' "$repld_log"; then failed=$((failed + 1)); fi
    dmesg | grep -E 'EXT4-fs error|BUG|WARNING|Oops' | tail -20
    [ $failed -eq 0 ] || { echo "-- the log of repld"; cat "$repld_log"; dmesg | tail -40; }
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
}

# --- on the host -----------------------------------------------------------------------------------------------------

if [ "${1:-}" = --inside ]; then
    (inside "$2")
    echo $? >/run/result/status
    sync
    echo o >/proc/sysrq-trigger
    sleep 30
    exit 1
fi

die() {
    echo "kernel-nbd.sh: $*" >&2
    exit 1
}

begun=$SECONDS
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${1:-}
if [ -z "$bin" ]; then
    for product in repld replctl; do swift build -c release --product $product --package-path "$root" || die "no $product"; done
    bin=$(swift build -c release --package-path "$root" --show-bin-path) || die "no directory of products"
fi
bin=$(cd "$bin" && pwd) || exit 1
[ -x "$bin/repld" ] && [ -x "$bin/replctl" ] || die "repld and replctl are not in $bin"

work=$(mktemp -d /var/tmp/repld-guest-XXXXXX) || exit 1
guest=
finish() {
    # The guest's processes are a process group, named by its kernel in this file as long as it runs.
    local group
    if group=$(cat "$work/guest/pid" 2>/dev/null); then kill -KILL -- "-$group" 2>/dev/null; fi
    if [ -n "$guest" ]; then
        kill "$guest" 2>/dev/null
        wait "$guest" 2>/dev/null
    fi
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

echo "== packages"
packages=(user-mode-linux kmod nbd-client e2fsprogs util-linux mount iproute2 fio)
mkdir -p "$work/debs/partial" "$work/root" "$work/result"
fetch() {
    apt-get -q -y --no-install-recommends --download-only -o Dir::Cache::archives="$work/debs" \
        -o APT::Sandbox::User=root install "${packages[@]}"
}
fetch >"$work/apt.log" 2>&1 || { apt-get -q update && fetch; } >"$work/apt.log" 2>&1 || { cat "$work/apt.log"; die "packages cannot be fetched"; }
for package in "$work"/debs/*.deb; do
    [ -e "$package" ] || continue
    basename "$package"
    dpkg-deb -x "$package" "$work/root" || exit 1
done
# Whatever was installed already is used where it is.
at() { [ -e "$work/root$1" ] && echo "$work/root$1" || echo "$1"; }
kernel=$(at /usr/bin/linux.uml)
[ -x "$kernel" ] || die "there is no $kernel"
libraries=
paths=
for place in /lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu; do libraries+=$work/root$place:; done
for place in /usr/sbin /usr/bin /sbin /bin; do paths+=$work/root$place:; done
cp "${BASH_SOURCE[0]}" "$work/kernel-nbd.sh"
element_bytes=$((128 << 20))
truncate -s $element_bytes "$work/ubda" "$work/ubdb"
{
    echo "bin=${bin@Q} modules=$(at /usr/lib/uml/modules) kmod=$(at /bin/kmod) element_bytes=$element_bytes"
    echo "export PATH=$paths/usr/sbin:/usr/bin:/sbin:/bin LD_LIBRARY_PATH=$libraries"
} >"$work/parameters"

# The guest's memory is a file; where there is no room for it in memory, it is on disk.
memory=2048
export TMPDIR=$work
[ "$(df --output=avail -m /dev/shm 2>/dev/null | tail -1)" -gt $memory ] 2>/dev/null && TMPDIR=/dev/shm
timeout -k 10 1200 "$kernel" "mem=${memory}M" root=/dev/root rootfstype=hostfs rootflags=/ ro quiet loglevel=2 \
    "init=$work/kernel-nbd.sh" con0=null,fd:1 con=null ssl=null "uml_dir=$work" umid=guest \
    "ubd0=$work/ubda" "ubd1=$work/ubdb" -- --inside "$work" </dev/null > >(sed -u '/^== guest/,$!d') 2>&1 &
guest=$!
wait $guest
status=$(cat "$work/result/status" 2>/dev/null)
[ -n "$status" ] || die "the guest ended before its checks did"
echo "== all: $((SECONDS - begun)) s"
exit "$status"
