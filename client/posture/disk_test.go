package posture

import (
	"fmt"
	"strings"
	"testing"
)

// machineOf is a machine from lines "PATH = TEXT" (a file), "PATH -> TARGET" (a link) and "mount: …" (a line of mountinfo).
func machineOf(lines string) recorded {
	r := recorded{files: map[string]string{}, links: map[string]string{}, vars: map[string]string{"HOME": "/home/ada"}}
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "mount: "); ok {
			r.files["/proc/self/mountinfo"] += rest + "\n"
		} else if path, text, ok := strings.Cut(line, " = "); ok {
			r.files[path] = text + "\n"
		} else if path, target, ok := strings.Cut(line, " -> "); ok {
			r.links[path] = target
		}
	}
	return r
}

// A disk with an ordinary partition, and dm-crypt on the third one.
const (
	nvme = `
		/sys/dev/block/259:0 -> ../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1
		/sys/dev/block/259:2 -> ../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p2
		/sys/dev/block/259:3 -> ../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p3
		/sys/class/block/nvme0n1 -> ../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1
		/sys/class/block/nvme0n1p2 -> ../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p2
		/sys/class/block/nvme0n1p3 -> ../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p3
		/sys/class/block/nvme0n1p2/partition = 2
		/sys/class/block/nvme0n1p3/partition = 3`
	luks = nvme + `
		/sys/dev/block/252:0 -> ../../devices/virtual/block/dm-0
		/dev/mapper/luks-1f -> ../dm-0
		/sys/class/block/dm-0/dm/uuid = CRYPT-LUKS2-2a4f6a1de1c04f5f8a26ee7f1c1d9f0e-dm_crypt-0
		/sys/class/block/dm-0/slaves/nvme0n1p3 -> ../../../../pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p3`
	lvm = luks + `
		/sys/dev/block/252:1 -> ../../devices/virtual/block/dm-1
		/sys/class/block/dm-1/dm/uuid = LVM-b1oQZr3Kq2mBmYv0aSJfXvD6yLw2yGz8pQ7rT5uV1wX9zA3bC4dE5fG6hI7jK8lM
		/sys/class/block/dm-1/slaves/dm-0 -> ../../dm-0`
)

func TestDiskEncrypted(t *testing.T) {
	for name, c := range map[string]struct {
		machine string
		want    Answer
	}{
		"a virtual machine's plain disk": {`
			mount: 22 27 0:21 / /proc rw,relatime - proc proc rw
			mount: 27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard,resv_strict
			mount: 28 27 0:25 / /mnt/tools ro,nosuid,nodev,relatime - tmpfs tools ro,size=4k,mode=755
			/sys/dev/block/254:0 -> ../../devices/pci0000:00/0000:00:02.0/virtio1/block/vda
			/sys/class/block/vda -> ../../devices/pci0000:00/0000:00:02.0/virtio1/block/vda`, No},
		"ubuntu: ext4 on LVM on LUKS": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/ubuntu--vg-ubuntu--lv rw
			mount: 101 30 259:2 / /boot rw,relatime shared:53 - ext4 /dev/nvme0n1p2 rw`, Yes},
		"fedora: btrfs on LUKS, home a subvolume": {luks + `
			mount: 68 1 0:32 /root / rw,relatime shared:1 - btrfs /dev/mapper/luks-1f rw,seclabel,compress=zstd:1,ssd,subvol=/root
			mount: 95 68 0:32 /home /home rw,relatime shared:48 - btrfs /dev/mapper/luks-1f rw,seclabel,compress=zstd:1,ssd,subvol=/home
			/sys/fs/btrfs/features/raid56 = 0
			/sys/fs/btrfs/7c1d/devices/dm-0 -> ../../../../devices/virtual/block/dm-0`, Yes},
		"btrfs over two devices, one of them plain": {luks + `
			mount: 68 1 0:32 / / rw,relatime shared:1 - btrfs /dev/dm-0 rw
			/sys/fs/btrfs/7c1d/devices/dm-0 -> ../../../../devices/virtual/block/dm-0
			/sys/fs/btrfs/7c1d/devices/nvme0n1p2 -> ../../../../devices/pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p2`, No},
		"btrfs that names a device which is not there": {`
			mount: 68 1 0:32 / / rw,relatime shared:1 - btrfs /dev/root rw`, Unknown},
		"only the home folder is encrypted": {lvm + `
			mount: 30 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
			mount: 101 30 252:1 / /home rw,relatime shared:53 - ext4 /dev/mapper/home rw`, No},
		"only the system is encrypted": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			mount: 101 30 259:2 / /home rw,relatime shared:53 - ext4 /dev/nvme0n1p2 rw`, No},
		"LVM over an encrypted and a plain partition": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			/sys/class/block/dm-1/slaves/nvme0n1p2 -> ../../../../pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p2`, No},
		"LUKS on RAID": {`
			mount: 30 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/cr_root rw
			/sys/dev/block/253:0 -> ../../devices/virtual/block/dm-0
			/sys/class/block/dm-0/dm/uuid = CRYPT-LUKS1-9d0e4b3f2c1a4c55b0e7d1a2b3c4d5e6-cr_root
			/sys/class/block/dm-0/slaves/md127 -> ../../md127`, Yes},
		"a plain partition of a RAID": {`
			mount: 30 1 259:7 / / rw,relatime shared:1 - xfs /dev/md127p1 rw
			/sys/dev/block/259:7 -> ../../devices/virtual/block/md127/md127p1
			/sys/class/block/md127p1 -> ../../devices/virtual/block/md127/md127p1
			/sys/class/block/md127p1/partition = 1
			/sys/class/block/md127/slaves/sda -> ../../../../pci0000:00/ata1/block/sda
			/sys/class/block/md127/slaves/sdb -> ../../../../pci0000:00/ata2/block/sdb`, No},
		"verity is no encryption": {nvme + `
			mount: 30 1 253:0 / / ro,relatime shared:1 - erofs /dev/mapper/usr ro
			/sys/dev/block/253:0 -> ../../devices/virtual/block/dm-0
			/sys/class/block/dm-0/dm/uuid = CRYPT-VERITY-9d0e4b3f2c1a4c55b0e7d1a2b3c4d5e6-usr
			/sys/class/block/dm-0/slaves/nvme0n1p2 -> ../../../../pci0000:00/0000:00:0e.0/nvme/nvme0/nvme0n1/nvme0n1p2`, No},
		"a home folder in an encrypted file": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			mount: 300 30 252:9 /ada /home/ada rw,nosuid,nodev,relatime shared:199 - ext4 /dev/mapper/home-ada rw
			/sys/dev/block/252:9 -> ../../devices/virtual/block/dm-9
			/sys/class/block/dm-9/dm/uuid = CRYPT-LUKS2-11112222333344445555666677778888-home-ada
			/sys/class/block/dm-9/slaves/loop0 -> ../../loop0`, Yes},
		"a loop device's file may lie anywhere": {`
			mount: 30 1 7:0 / / rw,relatime - ext4 /dev/loop0 rw
			/sys/dev/block/7:0 -> ../../devices/virtual/block/loop0
			/sys/class/block/loop0/loop/backing_file = /srv/root.img`, Unknown},
		"ZFS has its own encryption": {`
			mount: 30 1 0:27 / / rw,relatime shared:1 - zfs rpool/ROOT/ubuntu rw,xattr,posixacl`, Unknown},
		"a container": {`
			mount: 900 800 0:60 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c`, Unknown},
		"home on the network, the system encrypted": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			mount: 200 30 0:55 / /home/ada rw,relatime shared:150 - nfs4 files.corp.example:/home/ada rw,vers=4.2`, Unknown},
		"home behind a link to a plain disk": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			mount: 200 30 259:2 / /data\040one rw,relatime shared:150 - ext4 /dev/nvme0n1p2 rw
			/home -> data one/home`, No},
		"home behind a link back to itself": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			/home/ada -> /home/../home/ada`, Unknown},
		"a stack without an end": {`
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			/sys/dev/block/252:1 -> ../../devices/virtual/block/dm-1
			/sys/class/block/dm-1/slaves/dm-1 -> ../../dm-1`, Unknown},
		"a mount that lies over another": {lvm + `
			mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
			mount: 40 30 0:40 / /home rw,relatime shared:60 - autofs /etc/auto.home rw
			mount: 41 40 259:2 / /home rw,relatime shared:61 - ext4 /dev/nvme0n1p2 rw`, No},
		"no table of mounts": {``, Unknown},
		"a broken table":     {"mount: 30 1\nmount: - \nmount: 30 1 8:1 / / rw - ", Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got := linuxDisk(machineOf(c.machine)); got != c.want {
				t.Errorf("disk encrypted: %d, want %d", got, c.want)
			}
		})
	}
}

// Without a home folder only a disk that is not encrypted is certain.
func TestDiskWithoutAHomeFolder(t *testing.T) {
	const root = "\nmount: 30 1 %s / / rw,relatime shared:1 - ext4 /dev/x rw"
	for device, want := range map[string]Answer{"252:1": Unknown, "259:2": No} {
		m := machineOf(lvm + fmt.Sprintf(root, device))
		delete(m.vars, "HOME")
		if got := linuxDisk(m); got != want {
			t.Errorf("%s: disk encrypted: %d, want %d", device, got, want)
		}
	}
}

// What lies on a network may hang, so nothing on it is looked at.
func TestNetworkFoldersAreNotTouched(t *testing.T) {
	m := machineOf(lvm + `
		mount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
		mount: 200 30 0:55 / /home rw,relatime shared:150 - nfs4 files.corp.example:/home rw,vers=4.2`)
	var touched []string
	m.touched = &touched
	linuxDisk(m)
	for _, path := range touched {
		if strings.HasPrefix(path, "/home") {
			t.Errorf("looked at %s", path)
		}
	}
}

func FuzzMounts(f *testing.F) {
	f.Add("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n", "/home/ada")
	f.Add("30 1 0:32 /root / rw shared:1 master:2 - btrfs /dev/mapper/a\\040b rw\n", "/")
	f.Fuzz(func(t *testing.T, table, home string) {
		linuxDisk(recorded{files: map[string]string{"/proc/self/mountinfo": table}, vars: map[string]string{"HOME": home}})
	})
}
