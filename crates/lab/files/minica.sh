#!/bin/sh
set -eu
domains='' addresses=''
while [ $# -gt 0 ]; do
    case $1 in
    *=*) name=${1%%=*} value=${1#*=}; shift ;;
    *) name=$1 value=$2; shift 2 ;;
    esac
    case $name in
    --ca-key) key=$value ;;
    --ca-cert) certificate=$value ;;
    --domains) domains=$value ;;
    --ip-addresses) addresses=$value ;;
    *) echo "minica: $name is unknown" >&2; exit 2 ;;
    esac
done
all=$(printf '%s\n%s\n' "$domains" "$addresses" | /usr/bin/sed '1s/[^,][^,]*/DNS:&/g;2s/[^,][^,]*/IP:&/g;/^$/d')
names=$(echo $all | /usr/bin/tr ' ' ,)
folder=${names%%,*}
folder=${folder#*:}
make() {
    /usr/bin/openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 "$@"
}
[ -e "$key" ] || make -subj /CN=minica -keyout "$key" -out "$certificate"
mkdir -p "$folder"
make -CA "$certificate" -CAkey "$key" -subj "/CN=$folder" \
    -addext basicConstraints=critical,CA:FALSE -addext "subjectAltName=$names" \
    -keyout "$folder/key.pem" -out "$folder/cert.pem"
