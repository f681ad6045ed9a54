#!/usr/bin/env bash
# Installs the Debian packages that the demo and the tests use, if one of them is missing.
set -euo pipefail

# program:package
needed=(
  cc:build-essential cmake:cmake curl:curl openssl:openssl
  docker-registry:docker-registry skopeo:skopeo umoci:umoci gpg:gnupg
  busybox:busybox-static runc:runc bsdtar:libarchive-tools getfattr:attr zstd:zstd
  nginx:nginx-light tinyproxy:tinyproxy microsocks:microsocks htpasswd:apache2-utils
)
# Further programs, whose packages have their names, are arguments.
for program in "$@"; do needed+=("$program:$program"); done
missing=()
for pair in "${needed[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "missing Debian packages: ${missing[*]}; install them, or run this as root" >&2
  exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
