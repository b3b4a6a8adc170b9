# The stack on a Swarm of one node: a rolling update, while clients verify what comes back.
# shellcheck shell=bash disable=SC2154

stack=tcp-echo-test
joined=no
# The bridge that a swarm makes and leaves behind.
bridge=docker_gwbridge

part_swarm() {
    step "swarm: a rolling update of three replicas under verified load" rolling_update
}

# Takes down what `rolling_update` has put up, and leaves the swarm that it has made.
leave_swarm() {
    [[ $joined != no ]] || return 0
    # Clients first: they hold the network.
    docker ps --all --quiet --filter "label=$images=$id" | xargs --no-run-if-empty docker rm --force >/dev/null 2>&1
    docker stack rm $stack >/dev/null 2>&1
    wait_for 60 "the stack is gone" stack_gone
    docker swarm leave --force >/dev/null 2>&1
    [[ $joined == bridge ]] && docker network rm $bridge >/dev/null 2>&1
    joined=no
    docker rmi --no-prune "$images/swarm:1" "$images/swarm:2" >/dev/null 2>&1
}

stack_gone() {
    [[ -z $(docker ps --all --quiet --filter "label=com.docker.stack.namespace=$stack") ]]
}

# The file that users deploy, without the port, which names and a virtual address cannot share.
deploy() {
    TCP_ECHO_IMAGE=$1 TCP_ECHO_REPLICAS=3 \
        docker stack config --compose-file docker-compose.yml --compose-file tests/docker/swarm.yml 2>/dev/null |
        awk '/^    ports:/ { within = 1; next } within && /^    [a-z]/ { within = 0 } !within' >"$tmp/stack.yml" || return
    docker stack deploy --resolve-image never --compose-file "$tmp/stack.yml" $stack >"$tmp/deploy" 2>&1 ||
        { cat "$tmp/deploy"; return 1; }
}

# tasks IMAGE: those of it that run and are healthy.
tasks() {
    docker ps --filter "label=com.docker.stack.namespace=$stack" --filter "ancestor=$1" --filter health=healthy --quiet | wc -l
}

healthy() {
    (($(tasks "$1") == 3))
}

updated() {
    [[ $(docker service inspect --format '{{with .UpdateStatus}}{{.State}}{{end}}' ${stack}_tcp-echo) == completed ]]
}

# shellcheck disable=SC2016
# Runs in a container, until a file `stop` appears: what fails is tried once more, as clients do. A
# machine that has much to do may be slow, but must lose nothing.
client='
    tried=0 again=0 lost=0
    until [ -e /tmp/stop ]; do
        tried=$((tried + 1))
        if ! /tcp-echo $how tcp-echo:8090 >/tmp/said 2>&1; then
            echo "first try: $(tail -n 1 /tmp/said)"
            again=$((again + 1))
            /tcp-echo $how tcp-echo:8090 >/tmp/said 2>&1 || {
                echo "second try: $(tail -n 1 /tmp/said)"
                lost=$((lost + 1))
            }
        fi
        sleep 0.05
    done
    echo "tried $tried again $again lost $lost"'

# start_client NAME HOW
start_client() {
    start "$1" --network ${stack}_default --tmpfs /tmp --env "how=$2" --entrypoint sh \
        "$images/netcat-prod" -c "$client"
}

# A second image: the same program, another label.
next_image() {
    docker tag "$images/netcat-prod" "$images/swarm:1" &&
        docker build --quiet --label generation=2 --tag "$images/swarm:2" - >/dev/null <<<"FROM $images/swarm:1"
}

rolling_update() {
    local clients=(short-1 short-2 full lasting) name began tried=0 again=0 lost=0 line how
    [[ $(docker info --format '{{.Swarm.LocalNodeState}}') == inactive ]] || { skip "this engine is in a swarm already"; return; }
    next_image || return
    # The bridge goes at the end, unless it was there before.
    joined=bridge
    docker network inspect $bridge >/dev/null 2>&1 && joined=yes
    docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:0 >"$tmp/swarm" 2>&1 ||
        { cat "$tmp/swarm"; return 1; }
    deploy "$images/swarm:1" || return
    wait_for 60 "three replicas are healthy" healthy "$images/swarm:1" || { troubles; return 1; }
    echo "three replicas are healthy"

    for name in "${clients[@]}"; do
        case $name in
            short-*) how="check --quick --timeout 20s" ;;
            full) how="check --timeout 20s" ;;
            # Ten connections for three seconds, and every byte compared.
            lasting) how="bench --quiet -c 10 -r 20 -T 3" ;;
        esac
        start_client "$name" "$how" || return
    done

    began=$SECONDS
    deploy "$images/swarm:2" || return
    wait_for 180 "the update is complete" updated || { troubles; return 1; }
    wait_for 30 "three new replicas are healthy" healthy "$images/swarm:2" || { troubles; return 1; }
    echo "updated, one after the other, in $((SECONDS - began)) s"

    for name in "${clients[@]}"; do
        docker exec "$id-$name" touch /tmp/stop && wait_for 60 "$name ends" is "$name" Status exited || return
        docker logs "$id-$name" 2>&1 | sed "s/^/$name: /"
        line=$(docker logs "$id-$name" 2>&1 | tail -n 1)
        read -r _ line_tried _ line_again _ line_lost <<<"$line"
        ((tried += line_tried, again += line_again, lost += line_lost))
    done
    echo "$tried exchanges: $again had to be tried again, $lost failed twice"
    leave_swarm
    ((tried > 100 && lost == 0))
}

# What the engine says of tasks that do not come up.
troubles() {
    docker service ps --no-trunc --format '{{.Name}} {{.CurrentState}} {{.Error}}' ${stack}_tcp-echo
}
