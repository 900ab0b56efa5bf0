#!/bin/bash
# Makes this machine a part of a mezzo cluster: installs the package, sets the addresses, starts the servers, waits
# until they are healthy. Run as root by `vagrant up` and `vagrant provision`; works on any Debian with systemd.
#
# Again is harmless, and is how a new build is rolled out: only what changed is restarted, and tasks run on, for the
# unit that holds them is never touched. Nothing is downloaded.

set -euo pipefail

usage() {
    cat <<'TEXT'
provision.sh --package FILE --role ROLE... --name NAME --ip IP --master IP [--host IP=NAME]... [--registry HOST:PORT]...

  --package FILE        mezzo's .deb
  --role ROLE           master, agent or scheduler; repeat for more than one
  --name NAME           this machine, as people know it
  --ip IP               this machine, as the others reach it
  --master IP           the master
  --host IP=NAME        a machine of the cluster, for /etc/hosts; repeat for each
  --registry HOST:PORT  a registry that an agent asks over plain HTTP; repeat for each

In the environment: MEZZO_DEADLINE in seconds for a server to become healthy (120), and where things are: MEZZO_ETC
(/etc/mezzo), MEZZO_STATE (/var/lib/mezzo), MEZZO_NOTES (/var/lib/mezzo/provision), MEZZO_HOSTS (/etc/hosts),
MEZZO_PROFILE (/etc/profile.d/mezzo.sh), MEZZO_MODULES (/etc/modules-load.d/mezzo.conf).
TEXT
}

etc=${MEZZO_ETC:-/etc/mezzo}
hosts_file=${MEZZO_HOSTS:-/etc/hosts}
profile=${MEZZO_PROFILE:-/etc/profile.d/mezzo.sh}
state=${MEZZO_STATE:-/var/lib/mezzo}
modules=${MEZZO_MODULES:-/etc/modules-load.d/mezzo.conf}
notes=${MEZZO_NOTES:-$state/provision}
deadline=${MEZZO_DEADLINE:-120}

master_port=5050
agent_port=5051
scheduler_port=8080

# The image of the smoke test, there on every agent so that a cluster without a registry can show something.
sample_image=localhost/sleep:1

package='' name='' ip='' master=''
roles=() hosts=() registries=()

say() { echo "mezzo: $*"; }

fail() {
    echo "mezzo: error: $*" >&2
    exit 1
}

parse() {
    while (($# > 0)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --package | --role | --name | --ip | --master | --host | --registry) ;;
            *) fail "unknown argument $1 (--help tells them)" ;;
        esac
        (($# > 1)) || fail "$1 wants a value"
        case $1 in
            --package) package=$2 ;;
            --role) roles+=("$2") ;;
            --name) name=$2 ;;
            --ip) ip=$2 ;;
            --master) master=$2 ;;
            --host) hosts+=("$2") ;;
            --registry) registries+=("$2") ;;
        esac
        shift 2
    done
    local what
    for what in package name ip master; do
        [[ -n ${!what} ]] || fail "--$what is missing"
    done
    ((${#roles[@]} > 0)) || fail "--role is missing"
    for what in "${roles[@]}"; do
        [[ $what =~ ^(master|agent|scheduler)$ ]] || fail "there is no role $what; there are master, agent, scheduler"
    done
    # They go into TOML strings and into a file of the shell.
    for what in "$name" "$ip" "$master" "${hosts[@]}" "${registries[@]}"; do
        [[ $what =~ ^[A-Za-z0-9.:=_-]+$ ]] || fail "$what is no name and no address"
    done
    for what in "${hosts[@]}"; do
        [[ $what == ?*=?* ]] || fail "--host $what is not of the form IP=NAME"
    done
}

# --- the package

install_package() {
    [[ -f $package ]] || fail "there is no package $package"
    local wanted here
    wanted=$(dpkg-deb --field "$package" Architecture) || fail "$package is no Debian package"
    here=$(dpkg --print-architecture)
    [[ $wanted == "$here" || $wanted == all ]] ||
        fail "the package is for $wanted and this machine is $here: build it on such a machine, or take another box"
    check_dependencies
    say "installing $(dpkg-deb --show "$package" | tr '\t' ' ')"
    # A file of settings that came with the build before may name what is not there any more: the new one wins where
    # the package's has changed, the old one stays beside it as .dpkg-old, and our own values are written again below.
    DEBIAN_FRONTEND=noninteractive dpkg --force-confnew --install "$package" >"$notes/dpkg.log" 2>&1 || {
        cat "$notes/dpkg.log" >&2
        fail "dpkg could not install $package"
    }
}

# Told before anything is changed, for dpkg would leave the package half installed. Needs no network, and no apt.
check_dependencies() {
    local line missing=()
    while read -r line; do
        [[ -n $line ]] || continue
        is_met "$line" || missing+=("$line")
    done < <(dpkg-deb --field "$package" Pre-Depends Depends | sed 's/^[A-Za-z-]*: *//; s/, */\n/g')
    ((${#missing[@]} == 0)) ||
        fail "this machine lacks what the package needs: $(listed "${missing[@]}"). Nothing is downloaded inside:" \
            "build the package on the Debian that the box has, or take a box that has them"
}

# `libc6 (>= 2.34)`, with alternatives behind `|`.
is_met() {
    local one package relation version installed
    while IFS= read -r one; do
        [[ $one =~ ^\ *([a-z0-9][a-z0-9.+-]*)(:[a-z0-9]+)?\ *(\(([\<\>=]+)\ *([^\)]+)\))? ]] || continue
        package=${BASH_REMATCH[1]} relation=${BASH_REMATCH[4]:-} version=${BASH_REMATCH[5]:-}
        installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Version}\n' "$package" 2>/dev/null |
            sed -n 's/^installed //p' | head -n 1)
        [[ -n $installed ]] || continue
        [[ -z $relation ]] || dpkg --compare-versions "$installed" "$relation" "$version" || continue
        return 0
    done < <(tr '|' '\n' <<<"$1")
    return 1
}

listed() {
    local first=$1 rest
    shift
    printf '%s' "$first"
    for rest in "$@"; do printf ', %s' "$rest"; done
}

# --- settings

begin_mark='# --- written by provision.sh; the next run writes it anew'
end_mark='# --- end'

# What a file holds beside our own part.
without_our_part() {
    [[ ! -f $1 ]] || awk -v begin="$begin_mark" -v end="$end_mark" '
        $0 == begin { ours = 1 }
        !ours { print }
        $0 == end { ours = 0 }' "$1"
}

# Only if that changes something.
write_file() {
    local path=$1 text=$2
    if [[ ! -f $path || $(cat "$path") != "$text" ]]; then
        mkdir -p "$(dirname "$path")"
        # Not renamed into place: /etc/hosts may be a mount.
        printf '%s\n' "$text" >"$path"
    fi
}

# set_values FILE KEY=VALUE...: our part goes first, for there are no keys of the top level behind a [table]. What the
# package's own part says of these keys is kept as a comment.
set_values() {
    local path=$1 pair keys='' ours=''
    shift
    for pair in "$@"; do
        keys+="|${pair%%=*}"
        ours+="${pair%%=*} = ${pair#*=}"$'\n'
    done
    local rest
    rest=$(without_our_part "$path" | awk -v keys="^(${keys#|})[ \t]*=" '
        /^[ \t]*\[/ { table = 1 }
        !table && $0 ~ keys { print "#provision.sh# " $0; next }
        { print }')
    write_file "$path" "$begin_mark"$'\n'"$ours$end_mark"$'\n'"$rest"
}

string() { printf '"%s"' "$1"; }

strings() {
    local one text=''
    for one in "$@"; do text+=", $(string "$one")"; done
    printf '[%s]' "${text#, }"
}

write_settings() {
    local role
    for role in "${roles[@]}"; do
        case $role in
            master) set_values "$etc/master.toml" "listen=$(string "$ip:$master_port")" "allow_anonymous=true" ;;
            scheduler)
                set_values "$etc/scheduler.toml" "listen=$(string "$ip:$scheduler_port")" \
                    "master=$(string "$master:$master_port")"
                ;;
            agent)
                set_values "$etc/agent.toml" "listen=$(string "$ip:$agent_port")" "hostname=$(string "$name")" \
                    "master=$(string "$master:$master_port")" "insecure_registries=$(strings "${registries[@]}")"
                ;;
        esac
    done
    # For people who log in, that `mezzo status` finds its cluster.
    write_file "$profile" "export MEZZO_MASTER=$master:$master_port MEZZO_SCHEDULER=http://$master:$scheduler_port"
}

write_hosts() {
    ((${#hosts[@]} > 0)) || return 0
    local one text=''
    for one in "${hosts[@]}"; do text+="${one%%=*} ${one#*=}"$'\n'; done
    # First, for Debian gives a machine's own name to 127.0.1.1, and the first line counts.
    write_file "$hosts_file" "$begin_mark"$'\n'"$text$end_mark"$'\n'"$(without_our_part "$hosts_file")"
}

# --- what an agent needs of the machine

# Debian loads it when something mounts an overlay, and an agent wants to see it before.
load_overlay() {
    grep -qw overlay /proc/filesystems || modprobe overlay || fail "this kernel has no overlay file system"
    write_file "$modules" overlay
}

# --- the image of the smoke test

# Debian's own `sleep` with the libraries that it asks for. Only while no agent has the store open.
pack_sample_image() {
    local store=$state/agent/images
    if systemctl --quiet is-active mezzo-agent || mezzo image list --store "$store" | grep -q "^$sample_image "; then
        return 0
    fi
    local root program file
    root=$(mktemp -d)
    program=$(command -v sleep)
    for file in "$program" $(ldd "$program" | grep -o '/[^ )]*'); do
        install -D --mode=755 "$file" "$root$file"
    done
    mezzo image pack "$root" --store "$store" --tag "$sample_image" --entrypoint "$program" --cmd 1000000 \
        >"$notes/image.log" 2>&1 || {
        cat "$notes/image.log" >&2
        fail "cannot make the image $sample_image"
    }
    rm -r "$root"
    say "the image $sample_image is there"
}

# --- the servers

# start ROLE: a server whose program, settings or unit changed since it was started is started again. After an upgrade
# the package has done so already if it ran.
start() {
    local unit=mezzo-$1 now before pid
    now=$({
        cat "$etc/$1.toml"
        systemctl cat "$unit"
    } | sha256sum) || fail "the package brought no unit $unit"
    before=$(cat "$notes/$unit" 2>/dev/null || true)
    systemctl --quiet enable "$unit" 2>"$notes/enable.log" || fail "cannot enable $unit: $(cat "$notes/enable.log")"
    pid=$(systemctl show --property=MainPID --value "$unit")
    if ! systemctl --quiet is-active "$unit"; then
        say "starting $unit"
    elif [[ ! /proc/$pid/exe -ef /usr/bin/mezzo ]]; then
        say "restarting $unit: the program changed"
    elif [[ $now != "$before" ]]; then
        say "restarting $unit: settings changed"
    else
        say "$unit runs as it should"
        return 0
    fi
    # One that was given up would not be tried again.
    systemctl reset-failed "$unit" 2>/dev/null || true
    systemctl restart "$unit" || give_up "$unit" "does not start"
    printf '%s\n' "$now" >"$notes/$unit"
}

give_up() {
    systemctl --no-pager --full --lines=0 status "$1" >&2 || true
    journalctl --no-pager --unit="$1" --lines=30 >&2 || true
    fail "$1 $2"
}

# get PORT PATH: the answer's body if the answer is 200. Of bash alone, for a box may have no curl.
get() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout 5 bash -c '
        exec 3<>"/dev/tcp/$1/$2" && printf "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$3" "$1" >&3 &&
            read -r _ status _ <&3 && [ "$status" = 200 ] && cat <&3' sh "$ip" "$1" "$2" 2>/dev/null
}

master_is_healthy() { get "$master_port" /healthz >/dev/null; }
scheduler_is_healthy() { get "$scheduler_port" /healthz | grep -q '"connectedToMaster": *true'; }
agent_is_healthy() {
    get "$agent_port" /healthz >/dev/null &&
        mezzo --master "$master:$master_port" node list 2>/dev/null | grep -w "$name" | grep -qw connected
}

# What did not happen if the wait was in vain.
declare -A wants=(
    [master]="does not answer at port $master_port"
    [scheduler]="has not found the master"
    [agent]="is not known to the master (does that run?)"
)

wait_for() {
    local end=$((SECONDS + deadline))
    until "$1_is_healthy"; do
        # systemd may be told to try for ever: then it counts, from our start on.
        if systemctl --quiet is-failed "mezzo-$1" ||
            (($(systemctl show --property=NRestarts --value "mezzo-$1") >= 5)); then
            give_up "mezzo-$1" "does not stay up"
        fi
        ((SECONDS < end)) || give_up "mezzo-$1" "${wants[$1]} after $deadline s"
        sleep 1
    done
    say "mezzo-$1 is healthy"
}

main() {
    parse "$@"
    ((EUID == 0)) || fail "must be root"
    [[ -d /run/systemd/system ]] || fail "systemd does not run here"
    # Root's image store would make the folder above for root alone, if it came before the package that brings it:
    # master and scheduler, which are not root, could not reach theirs.
    mkdir -p "$notes"
    chmod 755 "$state"
    write_hosts
    install_package
    write_settings
    systemctl daemon-reload
    local role
    # The master first, whatever the order of the arguments: the others look for it.
    for role in master scheduler agent; do
        [[ " ${roles[*]} " == *" $role "* ]] || continue
        if [[ $role == agent ]]; then
            load_overlay
            pack_sample_image
        fi
        start "$role"
        wait_for "$role"
    done
}

main "$@"
