#!/bin/sh
# Runs when the image is built: starts a Kafka node once, as entrypoint.sh will, and keeps its classes as the JVM has
# them in memory (JEP 350), so that a node of the image starts in half of the time. $1: file to write.
# The JVM does without the file where it doesn't fit, such as with a heap above 32 GB.
set -eu
archive=$1
home=${KAFKA_HOME:-/opt/kafka}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/identity"
# One of its own, since builds share the machine's network where there are no namespaces.
port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 10000))
cat >"$work/server.properties" <<EOF
node.id=0
process.roles=broker,controller
controller.quorum.bootstrap.servers=127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
listeners=CONTROLLER://127.0.0.1:$port,INTERNAL://127.0.0.1:0
listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs=$work/data
EOF
# Any id will do: nothing of this node stays.
echo c2x1aWNlLWFyY2hpdmUtMQ >"$work/identity/cluster-id"
echo 0@127.0.0.1:$port:c2x1aWNlLWFyY2hpdmUtMg >"$work/identity/initial-controllers"
KAFKA_PROPERTIES=$work/server.properties KAFKA_IDENTITY=$work/identity NODE_ID=0 PROCESS_ROLES=broker,controller \
    KAFKA_JVM_OPTS="-XX:ArchiveClassesAtExit=$archive" "$home/bin/entrypoint.sh" >"$work/log" 2>&1 &
node=$!
waited=0
until grep -q 'Kafka Server started' "$work/log"; do
    kill -0 "$node" 2>/dev/null && [ "$waited" -lt 120 ] || { cat "$work/log" >&2; exit 1; }
    sleep 1
    waited=$((waited + 1))
done
kill "$node"
wait "$node" || true # 143: ended by SIGTERM
[ -s "$archive" ] || { cat "$work/log" >&2; exit 1; }
chmod 0644 "$archive"
