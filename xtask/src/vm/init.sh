#!/bin/busybox sh
# PID 1 of the guest: first in the initramfs, then, as `init second`, in the host's root seen through an overlay. Runs
# the job that xtask left in the shared directory, and tells QEMU how it ended through isa-debug-exit.
#
# Everything of ours lies in /.netpath-vm: tests put file systems of their own on /run, /mnt and /sys/fs/bpf.
OURS=/.netpath-vm
export PATH=/bin:/sbin

# A byte for isa-debug-exit: 16 all passed, 17 the job failed, 18 the guest could not be prepared. QEMU's own failures
# are 0 and 1.
end() {
  sync
  printf "\\$(printf %o "$1")" | dd of=/dev/port bs=1 seek=1281 conv=notrunc 2>/dev/null
  poweroff -f
}

fail() {
  echo "vm: $*"
  end 18
}

first() {
  /bin/busybox --install -s /bin
  mkdir -p /proc /sys /dev /host /writes /root
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t devtmpfs dev /dev
  version=$(uname -r)
  for module in virtio_pci 9pnet_virtio 9p overlay; do
    modprobe "$module" || grep -q "/$module.ko" "/lib/modules/$version/modules.builtin" ||
      fail "the kernel module $module cannot be loaded"
  done
  # The host's files do not change for the guest while it runs: `loose` lets it keep what it has read.
  share="trans=virtio,version=9p2000.L,msize=512000"
  mount -t 9p -o "$share,cache=loose,ro" host /host || fail "the host's root cannot be mounted"
  mount -t tmpfs -o size=75% writes /writes
  mkdir /writes/upper /writes/work
  mount -t overlay -o lowerdir=/host,upperdir=/writes/upper,workdir=/writes/work root /root ||
    fail "no overlay on the host's root"

  mkdir -p "/root$OURS/share" "/root$OURS/bin" "/root/lib/modules/$version"
  cp /init "/root$OURS/init"
  cp /bin/busybox "/root$OURS/bin/busybox"
  # The kernel calls it for what it lacks, and so may a test.
  ln -s busybox "/root$OURS/bin/modprobe"
  mount -t 9p -o "$share,cache=loose,ro" modules "/root/lib/modules/$version" || fail "no kernel modules"
  mount -t 9p -o "$share,cache=none" share "/root$OURS/share" || fail "no shared directory"
  for dir in proc sys dev; do mount --move "/$dir" "/root/$dir"; done
  exec switch_root /root "$OURS/bin/busybox" sh "$OURS/init" second
}

second() {
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$OURS/bin
  echo "$OURS/bin/modprobe" >/proc/sys/kernel/modprobe
  mkdir -p /dev/pts /dev/shm
  mount -t devpts devpts /dev/pts
  mount -t tmpfs shm /dev/shm
  mount -t tmpfs run /run
  mount -t cgroup2 cgroup /sys/fs/cgroup
  ln -sf /proc/self/fd /dev/fd
  hostname netpath-vm
  ip link set lo up
  # By its path: busybox would take itself for `sh`, and then for `ip` and `tc`.
  /bin/sh "$OURS/share/job" </dev/null
  status=$?
  [ "$status" -eq 0 ] || { echo "vm: the job ended with status $status"; end 17; }
  end 16
}

[ "$1" = second ] && second
first
