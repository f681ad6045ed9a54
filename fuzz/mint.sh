#!/usr/bin/env bash
# Mints what the fuzz targets call honest: keys/ and the signed and packed seeds.
#
# The private keys are thrown away, which is the point: whatever a target opens or approves after
# that must be what was signed here. To be run again only if the form of these things changes.
set -euo pipefail
cd "$(dirname "$0")"
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
mkdir -p keys seeds/{approval,cosign_payload,simple_payload,log_entry,public_key,signature_blob} \
  seeds/{certificate_chain,certificate_authority,openpgp_message,openpgp_keyring} \
  seeds/{manifest,image_config,layer_tar,layer_gzip,layer_zstd,sigstore_bundle,trusted_root} \
  seeds/{snp_certificates,event_log,init_data,agent_messages,statement,signature_annotations}

digest() { sha256sum | cut -d' ' -f1; }
base64_line() { base64 --wrap=0; }
ec_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$private/$1"; }
# Signs the standard input with the key $1.
sign() { openssl dgst -sha256 -sign "$private/$1" | base64_line; }

# An image of one layer.
content=$(printf 'layer' | digest)
printf '{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/bin"],"Cmd":["/bin/app"],"Volumes":{"/data":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$content" > seeds/image_config/honest
oci=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"%s","digest":"sha256:%s","size":5}]}' \
  "$oci.manifest.v1+json" "$oci.config.v1+json" "$(digest < seeds/image_config/honest)" \
  "$(wc -c < seeds/image_config/honest)" "$oci.layer.v1.tar" "$content" > seeds/manifest/honest
manifest=$(digest < seeds/manifest/honest)
printf '{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}' \
  "$oci.index.v1+json" "$oci.manifest.v1+json" "$manifest" \
  "$(wc -c < seeds/manifest/honest)" > seeds/manifest/index

# A cosign signature that a log took in.
payload() {
  printf '{"critical":{"identity":{"docker-reference":"registry.example/team/app:1.0"},"image":{"docker-manifest-digest":"sha256:%s"},"type":"%s"},"optional":%s}' \
    "$manifest" "$1" "$2"
}
ec_key cosign && openssl pkey -in "$private/cosign" -pubout -out seeds/public_key/honest
payload 'cosign container image signature' null > seeds/cosign_payload/honest
signature=$(sign cosign < seeds/cosign_payload/honest)
ec_key log && openssl pkey -in "$private/log" -pubout -out keys/log.pem
body=$(printf '{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%s"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}' \
  "$(digest < seeds/cosign_payload/honest)" "$signature" "$(base64_line < seeds/public_key/honest)" |
  base64_line)
entry=$(printf '{"body":"%s","integratedTime":1893456000,"logID":"%s","logIndex":42}' \
  "$body" "$(digest < keys/log.pem)")
printf '{"SignedEntryTimestamp":"%s","Payload":%s}' "$(printf '%s' "$entry" | sign log)" "$entry" \
  > seeds/log_entry/honest
{
  cat seeds/manifest/honest && printf '\0' && cat seeds/cosign_payload/honest
  printf '\0%s\0' "$signature" && cat seeds/log_entry/honest
} > seeds/approval/honest
printf '\0sigstore-json\n{"mimeType":"application/vnd.dev.cosign.simplesigning.v1+json","payload":"%s","annotations":{"dev.cosignproject.cosign/signature":"%s"}}' \
  "$(base64_line < seeds/cosign_payload/honest)" "$signature" > seeds/signature_blob/sigstore

# An OpenPGP message as skopeo has gpg sign it.
export GNUPGHOME=$private/gnupg && mkdir -m 700 "$GNUPGHOME"
owner() { gpg --batch --quiet --faked-system-time '20260101T000000!' "$@" 2>/dev/null; }
owner --passphrase '' --quick-generate-key owner@example.com ed25519 sign never
payload 'atomic container signature' '{"creator":"seed","timestamp":1767225600}' \
  > seeds/simple_payload/honest
owner --sign < seeds/simple_payload/honest > seeds/openpgp_message/honest
owner --sign --compress-level 0 < seeds/simple_payload/honest > seeds/openpgp_message/plain
owner --export > seeds/openpgp_keyring/honest
owner --export --armor > seeds/openpgp_keyring/armored
cp seeds/openpgp_message/plain seeds/signature_blob/openpgp
{ printf '\0simple-signing\n' && cat seeds/openpgp_message/plain; } > seeds/signature_blob/simple
gpgconf --kill all

# certificate NAME ISSUER EXTENSIONS: a certificate for twenty years, by itself if it is the issuer.
certificate() {
  ec_key "$1"
  local by=(-CA "$private/$2.pem" -CAkey "$private/$2")
  [ "$1" = "$2" ] && by=(-signkey "$private/$1")
  openssl req -new -key "$private/$1" -subj "/CN=$1" -out "$private/request"
  openssl x509 -req -in "$private/request" "${by[@]}" -days 7300 -extfile <(printf '%b' "$3") \
    -out "$private/$1.pem" 2>/dev/null
}
authority='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n'
issuer=$(printf 'https://login.example.com' | od -An -tx1 | tr -d ' \n')
holder="keyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\n"
holder+="subjectAltName=critical,email:dev@example.com\n1.3.6.1.4.1.57264.1.1=DER:$issuer\n"
holder+='1.3.6.1.4.1.57264.1.8=ASN1:UTF8String:https://login.example.com\n'
certificate root root "$authority"
certificate below root "$authority"
certificate leaf below "$holder"
certificate stranger-root stranger-root "$authority"
certificate stranger stranger-root "$holder"
cp "$private/root.pem" seeds/certificate_authority/honest
cp "$private/stranger.pem" keys/stranger.pem
{
  cat "$private/leaf.pem" && printf '\0'
  cat "$private/below.pem" "$private/root.pem"
} > seeds/certificate_chain/honest

# What the firmware and the kernel of a confidential VM give: an SNP certificate table of two, and
# event logs.
zeros() { head --bytes="$1" /dev/zero; }
{
  printf '\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd\x48\0\0\0\4\0\0\0'
  printf '\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82\x4c\0\0\0\4\0\0\0'
  zeros 24 && printf 'vcekask.'
} > seeds/snp_certificates/honest
event() { # register, event of four bytes
  printf "\\x$1"'\0\0\0\6\0\0\0\1\0\0\0\x0c\0' && zeros 48 && printf '\4\0\0\0%s' "$2"
}
{
  printf '\x46\0\0\0\0\3\0\0\0' && zeros 20 && printf '\x25\0\0\0Spec ID Event03\0\0\0\0\0'
  printf '\0\2\0\2\2\0\0\0\x0c\0\x30\0\x12\0\x20\0\0' && event 01 boot
  printf '\xff%.0s' {1..16} && event 04 AAEL
} > seeds/event_log/honest
printf 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"aa.toml" = "x"\n' > seeds/init_data/honest
printf '\0\x0a\0\x12\5\x0a\3tdx' > seeds/agent_messages/tee
printf '\1\x12\x0b\x0a\x09{"a":"b"}' > seeds/agent_messages/evidence
printf '\x82\0\0\0\x0a\0\0\0\1\2\0\x0a\x08\x08\x0d\x12\4oops' > seeds/agent_messages/refusal
# Bundles about the manifest, by a private Sigstore.
cargo build --locked --quiet --manifest-path ../Cargo.toml --workspace --example seeds
minted=$private/sigstore && mkdir "$minted"
"${CARGO_TARGET_DIR:-../target}/debug/examples/seeds" seeds/manifest/honest "$minted"
mv "$minted/root" seeds/trusted_root/honest && mv "$minted/key" keys/managed.pem
mv "$minted/"* seeds/sigstore_bundle/
jq --join-output .dsseEnvelope.payload seeds/sigstore_bundle/statement | base64 --decode > seeds/statement/honest
# The bundle of the bytes themselves, as cosign writes it beside a signature.
blob() { jq --join-output "$@" seeds/sigstore_bundle/blob; }
{
  cat seeds/manifest/honest && printf '\0' && blob .messageSignature.signature && printf '\0'
  blob .verificationMaterial.certificate.rawBytes | base64 --decode | openssl x509 -inform DER
  printf '\0\0'
  blob --arg log "$(blob .verificationMaterial.tlogEntries[0].logId.keyId | base64 --decode | xxd -p -c 32)" \
    '.verificationMaterial.tlogEntries[0] | {SignedEntryTimestamp: .inclusionPromise.signedEntryTimestamp,
      Payload: {body: .canonicalizedBody, integratedTime: .integratedTime | tonumber,
      logIndex: .logIndex | tonumber, logID: $log}} | tojson'
  printf '\0'
  blob '{SignedRFC3161Timestamp: .verificationMaterial.timestampVerificationData.rfc3161Timestamps[0].signedTimestamp} | tojson'
} > seeds/signature_annotations/honest

# Layers with a little of everything.
tree=$private/tree && mkdir -p "$tree/a/b" && printf 'hello' > "$tree/a/file"
ln "$tree/a/file" "$tree/a/hard" && ln -s ../a/file "$tree/a/b/soft" && mkfifo "$tree/fifo"
touch "$tree/a/.wh.gone" "$tree/a/b/.wh..wh..opq" "$tree/$(printf 'n%.0s' {1..120})"
truncate -s 64K "$tree/sparse" && printf 'x' >> "$tree/sparse" && chmod 4755 "$tree/a/file"
pack() {
  tar --create --format="$1" --blocking-factor=1 --sort=name --owner=0 --group=0 \
    --mtime=2026-01-01T00:00:00.5Z --directory="$tree" "${@:2}" > "seeds/layer_tar/$1"
}
pack v7 a && pack ustar a fifo && pack gnu --sparse . && pack pax --sparse .
gzip --no-name < seeds/layer_tar/ustar > seeds/layer_gzip/honest
cat seeds/layer_gzip/honest seeds/layer_gzip/honest > seeds/layer_gzip/members
zstd --quiet < seeds/layer_tar/ustar > seeds/layer_zstd/honest
{ printf '\x50\x2a\x4d\x18\x03\0\0\0abc' && zstd --quiet --check < seeds/layer_tar/ustar; } \
  > seeds/layer_zstd/skippable
