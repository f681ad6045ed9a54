#!/usr/bin/env bash
# The main job on real input: a registry, a KBS and the daemon on loopback; a signed image is
# pulled over ttrpc and runs, the same image unsigned is refused. Cleans up after itself.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
bin=${BIN:-${CARGO_TARGET_DIR:-target}/debug}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ "$(id -u)" -ne 0 ]; then echo "the demo mounts and unpacks as the daemon does: run it as root" >&2; exit 1; fi

dir=$(mktemp -d)
pids=()
clean_up() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  for bundle in "$dir"/bundle-*; do umount "$bundle/rootfs" 2>/dev/null || true; done
  umount "$dir/work" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean_up EXIT

# Waits until a file exists and is not empty.
wait_for() {
  for _ in $(seq 200); do [ -s "$1" ] && return 0; sleep 0.05; done
  echo "$1 did not appear" >&2; cat "$dir"/*.log >&2; exit 1
}

# Stores a file as a blob of an OCI layout and prints its digest.
blob() { # layout file
  local hex; hex=$(sha256sum "$2" | cut -d' ' -f1)
  install -D -m 0644 "$2" "$1/blobs/sha256/$hex"; echo "sha256:$hex"
}

# Signs as `cosign sign --key` does: the signature is an image under the tag sha256-<hex>.sig.
sign() { # repository digest key
  local l="$dir/signature" payload config manifest
  mkdir -p "$l"; echo '{"imageLayoutVersion":"1.0.0"}' > "$l/oci-layout"
  printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}' "$1" "$2" > "$dir/payload"
  payload=$(blob "$l" "$dir/payload")
  printf '{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":["%s"]}}' "$payload" > "$dir/config"
  config=$(blob "$l" "$dir/config")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":"%s"},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":%d,"digest":"%s","annotations":{"dev.cosignproject.cosign/signature":"%s"}}]}' \
    "$(stat -c %s "$dir/config")" "$config" "$(stat -c %s "$dir/payload")" "$payload" \
    "$(openssl dgst -sha256 -sign "$3" "$dir/payload" | base64 -w0)" > "$dir/manifest"
  manifest=$(blob "$l" "$dir/manifest")
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":%d,"digest":"%s","annotations":{"org.opencontainers.image.ref.name":"sig"}}]}' \
    "$(stat -c %s "$dir/manifest")" "$manifest" > "$l/index.json"
  skopeo copy --quiet --insecure-policy --dest-tls-verify=false "oci:$l:sig" "docker://$1:${2/:/-}.sig"
}

say "1. A registry that nobody trusts, with one image built from Debian's static busybox"
cat > "$dir/registry.yml" <<END
version: 0.1
storage: {filesystem: {rootdirectory: $dir/registry}}
http: {addr: 127.0.0.1:0}
END
OTEL_TRACES_EXPORTER=none docker-registry serve "$dir/registry.yml" > "$dir/registry.log" 2>&1 &
pids+=($!)
for _ in $(seq 200); do
  registry=$(grep -o 'listening on 127.0.0.1:[0-9]*' "$dir/registry.log" | grep -o '127.0.0.1:[0-9]*' || true)
  [ -n "$registry" ] && break; sleep 0.05
done
mkdir -p "$dir/tree/bin" "$dir/tree/etc"
cp "$(command -v busybox)" "$dir/tree/bin/busybox"
ln -s busybox "$dir/tree/bin/sh"
echo 'root:x:0:0:root:/:/bin/sh' > "$dir/tree/etc/passwd"
echo 'Hello from a verified rootfs' > "$dir/tree/etc/motd"
umoci init --layout "$dir/layout"
umoci new --image "$dir/layout:busybox"
umoci insert --image "$dir/layout:busybox" "$dir/tree" /
umoci config --image "$dir/layout:busybox" --config.cmd /bin/sh
for name in signed unsigned; do
  skopeo copy --quiet --insecure-policy --dest-tls-verify=false \
    "oci:$dir/layout:busybox" "docker://$registry/demo/$name:1"
done
digest=$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$registry/demo/signed:1")
echo "$registry/demo/signed:1 and $registry/demo/unsigned:1, both $digest"

say "2. The owner signs one of them, and registers key and policy in the KBS"
openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/cosign.key" 2>/dev/null ||
  openssl ecparam -name prime256v1 -genkey -noout -out "$dir/cosign.key"
openssl pkey -in "$dir/cosign.key" -pubout -out "$dir/cosign.pub"
sign "$registry/demo/signed" "$digest" "$dir/cosign.key"
install -D "$dir/cosign.pub" "$dir/kbs/default/cosign-key/1"
mkdir -p "$dir/kbs/default/security-policy"
cat > "$dir/kbs/default/security-policy/test" <<END
{"default": [{"type": "reject"}],
 "transports": {"docker": {"$registry": [{"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign-key/1"}]}}}
END
cat "$dir/kbs/default/security-policy/test"
"$bin/dev-kbs" --listen 127.0.0.1:0 --dir "$dir/kbs" --tls-cert-out "$dir/kbs.pem" \
  --ready-file "$dir/kbs.url" > "$dir/kbs.log" 2>&1 &
pids+=($!)
wait_for "$dir/kbs.url"

say "3. The daemon, configured as initdata would"
# Layers are kept only where the host cannot write: in memory, as /run of a guest is.
mkdir "$dir/work"
mount -t tmpfs image-agent-demo "$dir/work"
cat > "$dir/cdh.toml" <<END
socket = "unix://$dir/cdh.sock"
[kbc]
name = "cc_kbc"
url = "$(tr -d '\n' < "$dir/kbs.url")"
kbs_cert = """
$(cat "$dir/kbs.pem")
"""
[image]
work_dir = "$dir/work"
image_security_policy_uri = "kbs:///default/security-policy/test"
[[image.registry_config.registry]]
location = "$registry"
insecure = true
[image_agent]
attester = "sample"
END
"$bin/image-agent" serve -c "$dir/cdh.toml" 2> "$dir/agent.log" &
pids+=($!)
for _ in $(seq 200); do [ -S "$dir/cdh.sock" ] && break; sleep 0.05; done

say "4. kata-agent's call, for the signed image"
"$bin/image-agent" call "$registry/demo/signed:1" "$dir/bundle-signed" --socket "$dir/cdh.sock"
chroot "$dir/bundle-signed/rootfs" /bin/busybox cat /etc/motd

say "5. The same call, for the unsigned one"
if "$bin/image-agent" call "$registry/demo/unsigned:1" "$dir/bundle-unsigned" --socket "$dir/cdh.sock"; then
  echo "the unsigned image was accepted" >&2; exit 1
fi
if [ -e "$dir/bundle-unsigned/rootfs" ]; then echo "something was left behind" >&2; exit 1; fi

say "6. Why, for the owner"
"$bin/image-agent" verify "$registry/demo/unsigned:1" -c "$dir/cdh.toml" || [ $? -eq 3 ]

say "Done: the signed image ran, the unsigned one was refused."
