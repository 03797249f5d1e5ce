# Makes a package of nixpkgs from Debian packages of the same software: links to the programs in /usr, and copies of
# files that NixOS reads while it builds a system. `debian` are the names of Debian packages.
lists=/usr/share/chatmail-lab/lists
mkdir -p "$out/bin"
ln -s bin "$out/sbin"

copy() {
  mkdir -p "$(dirname "$out/$2")"
  cp -a "$1" "$out/$2"
}

declare -A programs=()
for package in $debian; do
  for list in "$lists/$package".list "$lists/$package":*.list; do
    if [ ! -e "$list" ]; then
      continue
    fi
    while read -r path; do
      path=/usr/${path#/}
      path=${path/#\/usr\/usr\//\/usr\/}
      if [ ! -e "$path" ] || [ -d "$path" ]; then
        continue
      fi
      case $path in
      /usr/bin/* | /usr/sbin/*)
        ln -sf "$path" "$out/bin/"
        programs[$(readlink -f "$path")]=1
        ;;
      /usr/lib/systemd/*)
        if [ "$name" != systemd ]; then
          copy "$path" "${path#/usr/}"
        fi
        ;;
      /usr/lib/udev/rules.d/* | /usr/share/dbus-1/*) copy "$path" "${path#/usr/}" ;;
      esac
    done <"$list"
  done
done
# Programs that Debian selects with update-alternatives.
for path in /etc/alternatives/*; do
  target=$(readlink -f "$path")
  if [ -n "${programs[$target]-}" ]; then
    ln -sf "$target" "$out/bin/${path##*/}"
  fi
done
eval "$more"
