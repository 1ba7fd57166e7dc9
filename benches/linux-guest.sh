#!/usr/bin/env bash
# The Linux guest that ours is measured against: Debian's cloud kernel, busybox and nginx in an initramfs, and an ext4 disk.
# usage: linux-guest.sh FOLDER DATA PROGRAM
# makes FOLDER/{vmlinuz,initrd.gz,disk.ext4}. DATA is a folder: what the disk holds and nginx serves. The guest
# runs `PROGRAM rawread` or `PROGRAM files` on its disk, instead of serving, where its command line says "rawread" or "workfiles".
# Needs apt-get, cpio, mke2fs and nginx. The guest's address is 10.77.0.2/24.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

mkdir -p "$1"
folder=$(cd "$1" && pwd)
data=$2
program=$3
tree=$folder/tree
rm -rf "$tree" "$folder/packages"
mkdir -p "$folder/packages"

# The packages' own files, without installing them here.
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
cd "$folder/packages"
apt-get -q download "$kernel" busybox-static >/dev/null 2>&1 || {
  apt-get -q update >/dev/null
  apt-get -q download "$kernel" busybox-static >/dev/null
}
for package in *.deb; do dpkg -x "$package" files; done
cd - >/dev/null
cp "$folder"/packages/files/boot/vmlinuz-* "$folder/vmlinuz"

mkdir -p "$tree"/{bin,proc,sys,dev,etc/nginx,var/log/nginx,var/lib/nginx,tmp,run,data,lib64,usr/sbin,modules}
cp "$(find "$folder/packages/files" -path '*bin/busybox' | head -n 1)" "$tree/bin/"
cp "$(command -v nginx)" "$tree/usr/sbin/"
cp "$program" "$tree/bin/rump-benches"
for binary in "$tree/usr/sbin/nginx" "$tree/bin/rump-benches"; do
  ldd "$binary" | awk '/=> \//{print $3}'
done | sort -u | while read -r library; do
  mkdir -p "$tree/$(dirname "$library")"
  cp -L "$library" "$tree/$library"
done
cp -L /lib64/ld-linux-x86-64.so.2 "$tree/lib64/"

modules='virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net virtio_blk'
for module in $modules; do
  find "$folder/packages/files" -name "$module.ko*" -exec cp {} "$tree/modules/" \;
done
[[ -z $(find "$tree/modules" -name '*.xz') ]] || xz -d "$tree"/modules/*.xz
printf 'root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$tree/etc/passwd"
printf 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$tree/etc/group"
cat >"$tree/etc/nginx/nginx.conf" <<'NGINX'
daemon off; worker_processes 1; error_log /dev/null; pid /run/nginx.pid;
events { worker_connections 4096; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; server { listen 80 backlog=4096; root /data; autoindex on; } }
NGINX
cat >"$tree/init" <<INIT
#!/bin/busybox sh
B=/bin/busybox
\$B mount -t proc proc /proc; \$B mount -t sysfs s /sys; \$B mount -t devtmpfs d /dev
for m in $modules; do [ -f /modules/\$m.ko ] && \$B insmod /modules/\$m.ko; done
if \$B grep -q rawread /proc/cmdline; then /bin/rump-benches rawread /dev/vda; \$B poweroff -f; fi
if \$B grep -q workfiles /proc/cmdline; then /bin/rump-benches files /dev/vda /data; \$B poweroff -f; fi
\$B ip link set lo up; \$B ip addr add 10.77.0.2/24 dev eth0; \$B ip link set eth0 up
\$B mount -t ext4 -o ro /dev/vda /data || \$B echo "no disk mounted"
\$B grep -E 'MemFree|MemTotal' /proc/meminfo
exec /usr/sbin/nginx
INIT
chmod +x "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -9 >"$folder/initrd.gz")
rm -f "$folder/disk.ext4"
mke2fs -q -t ext4 -d "$data" "$folder/disk.ext4" 256M >/dev/null
rm -rf "$tree" "$folder/packages"
