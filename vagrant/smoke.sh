#!/bin/sh
# Deploys an app on the test cluster through the scheduler's REST API, shows where it runs, removes it.
# Exit status 0 if all of that went well. Needs curl, on this computer, and nothing else.

set -eu

scheduler=${MEZZO_SCHEDULER:-http://192.168.56.10:8080}
instances=${1:-3}
# There on every agent; see provision.sh.
image=${MEZZO_IMAGE:-localhost/sleep:1}
deadline=${MEZZO_DEADLINE:-120}
app=smoke

case $instances in
    '' | *[!0-9]* | 0)
        echo "usage: smoke.sh [INSTANCES]" >&2
        exit 2
        ;;
esac

api() {
    curl --silent --show-error --fail-with-body --max-time 10 -H 'Content-Type: application/json' "$@"
}

fail() {
    echo "smoke test: $*" >&2
    exit 1
}

# What has been started is taken away, also after a failure.
remove() {
    api -X DELETE "$scheduler/v2/apps/$app?force=true" >/dev/null 2>&1 || true
}

running() {
    api "$scheduler/v2/apps/$app" 2>/dev/null | grep -o '"tasksRunning": *[0-9]*' | grep -o '[0-9]*$' || echo 0
}

tasks() {
    api -H 'Accept: application/json' "$scheduler/v2/tasks" | grep -o '"[a-zA-Z]*": *"[^"]*"' | tr -d ' "'
}

api "$scheduler/ping" >/dev/null || fail "no scheduler at $scheduler; is the cluster up (vagrant status)?"

trap remove EXIT
trap 'exit 1' INT TERM
echo "deploying /$app, $instances times $image"
api -X POST "$scheduler/v2/apps" >/dev/null --data "{
    \"id\": \"$app\", \"cpus\": 0.05, \"mem\": 32, \"instances\": $instances,
    \"container\": { \"type\": \"MESOS\", \"docker\": { \"image\": \"$image\" } }
}" || fail "the scheduler did not take the app"

waited=0
while [ "$(running)" -ne "$instances" ]; do
    if [ "$waited" -ge "$deadline" ]; then
        echo "what the scheduler says of it:" >&2
        api "$scheduler/v2/queue" >&2 || true
        api "$scheduler/v2/apps/$app?embed=app.lastTaskFailure" >&2 || true
        fail "$(running) of $instances run after $deadline s"
    fi
    sleep 1
    waited=$((waited + 1))
done
echo "$instances of $instances run:"
tasks | sed -n 's/^host:/  /p' | sort | uniq -c

remove
trap - EXIT
waited=0
while api "$scheduler/v2/apps/$app" >/dev/null 2>&1 || tasks | grep -q "^appId:/$app\$"; do
    [ "$waited" -lt "$deadline" ] || fail "the app is still there $deadline s after its removal"
    sleep 1
    waited=$((waited + 1))
done
echo "and it is gone again"
