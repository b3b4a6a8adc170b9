#!/usr/bin/env bash
# Boots systemd on top of a root that stays as it is. To be run as PID 1 of namespaces of its own; see
# machine.sh. What is written is gone with them.
#
# Usage: tests/package/boot.sh ROOT MOUNTPOINT INIT...
set -eu

root=$1 mountpoint=$2
shift 2

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$mountpoint"
mkdir "$mountpoint"/{upper,work,root}
mount -t overlay -o "lowerdir=$root,upperdir=$mountpoint/upper,workdir=$mountpoint/work" overlay "$mountpoint/root"
cd "$mountpoint/root"

mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

ip link set lo up
pivot_root . mnt
cd /
umount --lazy /mnt
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
