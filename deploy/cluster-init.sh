#!/bin/sh
# Makes one cluster of the nodes in NODES ("host:port host:port …"), REPLICAS replicas a master; does nothing when it is
# one already. Containers come back with other addresses: nodes that have lost each other are introduced again.
set -eu
cli=${CLI:-valkey-cli}
replicas=${REPLICAS:-1}
patience=${PATIENCE_S:-60}

say() { echo "cluster-init: $*"; }
at() { host=$1; shift; "$cli" -h "${host%:*}" -p "${host##*:}" "$@"; }
address() { # a cluster meets by address, not by name
    ip=$(getent hosts "${1%:*}" | awk '{print $1; exit}')
    echo "${ip:-${1%:*}}:${1##*:}"
}
fine() {
    for node in $NODES; do
        at "$node" cluster info 2>/dev/null | grep -q '^cluster_state:ok' || return 1
    done
}
wait_for() { # what it is called, then the check
    what=$1; shift
    left=$patience
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { say "gave up: $what"; exit 1; }
        sleep 1
    done
}
answers() {
    for node in $NODES; do [ "$(at "$node" ping 2>/dev/null)" = PONG ] || return 1; done
}

wait_for "not every node answers" answers
first=${NODES%% *}
if fine; then
    say "the cluster is there already"
    exit 0
fi
if at "$first" cluster info | grep -q '^cluster_slots_assigned:0'; then
    addresses=
    for node in $NODES; do addresses="$addresses $(address "$node")"; done
    # shellcheck disable=SC2086  # one word a node
    "$cli" --cluster create $addresses --cluster-replicas "$replicas" --cluster-yes >/dev/null
else
    say "introducing the nodes again"
    for node in $NODES; do
        where=$(address "$node")
        at "$first" cluster meet "${where%:*}" "${where##*:}" >/dev/null
    done
fi
wait_for "the nodes do not agree" fine
say "the cluster is ready"
