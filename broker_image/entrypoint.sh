#!/bin/sh
# Starts a Kafka node. Formats its disk first if it is empty, and never decides by itself that a cluster is new:
# the operator has written that down in the identity (a mounted Secret). README.md has the contract.
# -f: options of java are words and not file names, whatever characters they have.
set -euf

home=${KAFKA_HOME:-/opt/kafka}
properties=${KAFKA_PROPERTIES:-/etc/kafka/config/server.properties}
identity=${KAFKA_IDENTITY:-/etc/kafka/identity}

archive=$home/classes.jsa
[ ! -r "$archive" ] || archived=-XX:SharedArchiveFile=$archive

say() { echo "sluice: $*"; }
refuse() {
    echo "sluice: refusing to start: $*" >&2
    exit 1
}
property() { sed -n "s/^$1=//p" "$2" | tail -n 1 | tr -d '\r'; }
word() { tr -d ' \n\r' <"$identity/$1"; }

: "${NODE_ID:?NODE_ID must say which Kafka node this is}"
: "${PROCESS_ROLES:?PROCESS_ROLES must say what this node is: controller, broker or both}"
[ -r "$properties" ] || refuse "$properties can't be read: the node's ConfigMap isn't mounted"
[ -r "$identity/cluster-id" ] || refuse "$identity/cluster-id can't be read: the cluster's identity Secret isn't mounted"

cluster_id=$(word cluster-id)
data=$(property log.dirs "$properties")
configured=$(property node.id "$properties")
[ -n "$data" ] || refuse "$properties doesn't say log.dirs"
[ "$configured" = "$NODE_ID" ] || refuse "NODE_ID is $NODE_ID, but $properties says node.id=$configured"

format() {
    # A killed format leaves only what it wrote before meta.properties, which it writes last. Anything else that lies
    # there may be somebody's records.
    if [ -d "$data" ]; then
        left=$(find "$data" -mindepth 1 ! -type d \
            ! -path '*/__cluster_metadata-0/00000000000000000000-0000000000.checkpoint*' \
            ! -name 'bootstrap.checkpoint*' ! -name 'meta.properties.tmp' | head -n 3)
        [ -z "$left" ] || refuse "$data has no meta.properties but isn't empty (such as $(echo "$left" | head -n 1))." \
            "If this is another cluster's or a damaged disk, look at it by hand; if it may be lost, empty the volume."
        find "$data" -mindepth 1 -delete
    fi

    set -- --cluster-id "$cluster_id" --config "$properties"
    if [ -s "$identity/format-version" ]; then
        set -- "$@" --release-version "$(word format-version)"
    fi
    controllers=""
    [ ! -s "$identity/initial-controllers" ] || controllers=$(word initial-controllers)
    bootstrapped=false
    [ ! -s "$identity/bootstrapped" ] || bootstrapped=$(word bootstrapped)
    initial=false
    case ",$controllers," in *",$NODE_ID@"*) initial=true ;; esac
    if [ "$bootstrapped" != true ] && [ "$initial" = true ]; then
        say "formatting $data as an initial controller of the new cluster $cluster_id"
        set -- "$@" --initial-controllers "$controllers"
    else
        # A controller that lost its disk gets a new directory id, and joins the quorum by itself.
        say "formatting $data as a node that joins the cluster $cluster_id"
        set -- "$@" --no-initial-controllers
    fi
    run -Xmx256m kafka.tools.StorageTool format "$@" || refuse "formatting $data failed (see above)"
}

# The options are words, so they are not quoted: $KAFKA_HEAP_OPTS, $KAFKA_JVM_OPTS.
run() { java ${archived:-} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$home/config/log4j2.properties" -cp "$home/libs/*" "$@"; }

if [ -f "$data/meta.properties" ]; then
    found=$(property cluster.id "$data/meta.properties")
    [ "$found" = "$cluster_id" ] || refuse "the volume belongs to the Kafka cluster $found, and this node to $cluster_id." \
        "Nothing was changed. Give the node an empty volume, or bring back the Secret with the identity of $found."
    node=$(property node.id "$data/meta.properties")
    [ "$node" = "$NODE_ID" ] || refuse "the volume belongs to node $node of this cluster, and this is node $NODE_ID." \
        "Nothing was changed. Mount the volume of node $NODE_ID."
else
    format
fi

say "starting Kafka node $NODE_ID ($PROCESS_ROLES) of cluster $cluster_id"
# Java takes this process over: it is PID 1 and gets SIGTERM, at which Kafka hands its leaderships over before it ends.
# shellcheck disable=SC2086
exec java ${archived:-} ${KAFKA_HEAP_OPTS:--Xms512m -Xmx512m} \
    -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent \
    -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true \
    "-Dlog4j2.configurationFile=$home/config/log4j2.properties" \
    ${KAFKA_JVM_OPTS:-} -cp "$home/libs/*" kafka.Kafka "$properties"
