#!/usr/bin/env bash
# Starts a real S3 API (OpenStack Swift) on loopback, in the foreground, until it is ended by SIGTERM or SIGINT.
#   pip install swift            # once; the swift-* programs must be on PATH
#   swift_s3.sh DIR [PORT]       # DIR must allow user xattrs; endpoint http://127.0.0.1:PORT (default 7080)
# Credentials: access key "test:tester", secret "swift-secret-3f9c", path-style addressing, region us-east-1.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd); port=${2:-7080}
export SWIFT_DIR=$dir/etc
mkdir -p "$dir/etc" "$dir/srv/d1" "$dir/log"

cat >"$dir/etc/swift.conf" <<X
[swift-hash]
swift_hash_path_prefix = a
swift_hash_path_suffix = b
[storage-policy:0]
name = default
default = yes
X

cd "$dir/etc"
python3 - "$port" <<'X'  # what swift-ring-builder would take nine processes for
import sys
from pathlib import Path

from swift.common.ring import RingBuilder

for offset, server in enumerate(("object", "container", "account"), 1):
    if not Path(f"{server}.ring.gz").exists():
        builder = RingBuilder(part_power=6, replicas=1, min_part_hours=1)
        where = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(sys.argv[1]) + offset}
        builder.add_dev(where | {"device": "d1", "weight": 1})
        builder.rebalance()
        builder.get_ring().save(f"{server}.ring.gz")
X
offset=1
for server in object container account; do
  server_port=$((port + offset)); offset=$((offset + 1))
  cat >"$server-server.conf" <<X
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $server_port
user = $(id -un)
swift_dir = $dir/etc
devices = $dir/srv
mount_check = false
workers = 0
log_address = /nonexistent
log_level = WARNING
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = $server-server
[app:$server-server]
use = egg:swift#$server
conn_timeout = 30
node_timeout = 60
X
done

cat >proxy-server.conf <<X
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
user = $(id -un)
swift_dir = $dir/etc
workers = 0
log_address = /nonexistent
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
# A busy machine may take longer than Swift's half second, after which it would answer 503, and soon to everything.
conn_timeout = 30
node_timeout = 60
error_suppression_limit = 1000000
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:11219
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
allow_multipart_uploads = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = swift-secret-3f9c .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
rate_limit_after_segment = 10000
minimum_segment_size = 1
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
X

children=()
trap 'kill "${children[@]}" 2>/dev/null || true; wait' EXIT
trap 'exit 0' INT TERM
for server in account container object proxy; do
  "swift-$server-server" "$dir/etc/$server-server.conf" >"$dir/log/$server.log" 2>&1 &
  children+=($!)
done
wait -n   # one of the four ended: so do we, and the trap ends the rest
