package posture

import (
	"path"
	"slices"
	"strings"
)

// A mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	device string // major:minor; the major is 0 for what lies on no block device of its own
	point  string
	kind   string
	source string
}

// onBlocks reports whether the file system lies on block devices that can be found out.
func (mt mount) onBlocks() bool { return mt.kind == "btrfs" || !strings.HasPrefix(mt.device, "0:") }

// linuxDisk is whether the file systems of / and of the home folder lie on devices that dm-crypt encrypts, through whatever LVM, RAID or
// partitions make of them. What the drive encrypts by itself, or a file system for single folders, does not show and counts for nothing.
func linuxDisk(m machine) Answer {
	text, ok := m.file("/proc/self/mountinfo")
	if !ok {
		return Unknown
	}
	mounts := parseMounts(text)
	var parts []Answer
	for _, folder := range []string{"/", m.home()} {
		part := Unknown
		if mt, ok := locate(m, mounts, folder); ok {
			part = fileSystemEncrypted(m, mt)
		}
		parts = append(parts, part)
	}
	return all(parts)
}

func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		own, rest, ok := strings.Cut(line, " - ") // optional fields stand before the dash
		fields, kind := strings.Fields(own), strings.Fields(rest)
		if ok && len(fields) >= 6 && len(kind) >= 2 {
			mounts = append(mounts, mount{device: fields[2], point: unescape(fields[4]), kind: kind[0], source: unescape(kind[1])})
		}
	}
	return mounts
}

// unescape undoes what the kernel does to spaces, tabs, line ends and backslashes there.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// mountOf is the mount that a path without links lies on: the longest mount point above it, of equal ones the last, which covers the others.
func mountOf(mounts []mount, at string) (found mount, ok bool) {
	for _, mt := range mounts {
		if isBelow(at, mt.point) && len(mt.point) >= len(found.point) {
			found, ok = mt, true
		}
	}
	return found, ok
}

func isBelow(at, point string) bool {
	return point == "/" || at == point || strings.HasPrefix(at, point+"/")
}

// maxLinks is how many symbolic links a path may lead through.
const maxLinks = 16

// locate follows a folder's symbolic links to the mount that it lies on. It goes along the list of mounts and stops at one that lies on no
// block device, without touching it: a network's file system may hang.
func locate(m machine, mounts []mount, folder string) (mount, bool) {
	if !path.IsAbs(folder) {
		return mount{}, false
	}
	at, rest := "/", steps(folder)
	for links := 0; links <= maxLinks; {
		mt, ok := mountOf(mounts, at)
		if len(rest) == 0 || !ok || !mt.onBlocks() {
			return mt, ok
		}
		next := path.Join(at, rest[0])
		if over, ok := mountOf(mounts, next); ok && over.onBlocks() {
			if target := m.link(next); target != "" {
				links++
				if path.IsAbs(target) {
					at = "/"
				}
				rest = append(steps(target), rest[1:]...)
				continue
			}
		}
		at, rest = next, rest[1:]
	}
	return mount{}, false
}

func steps(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// fileSystemEncrypted is whether every device of a file system is encrypted.
func fileSystemEncrypted(m machine, mt mount) Answer {
	var parts []Answer
	for _, device := range devicesOf(m, mt) {
		parts = append(parts, deviceEncrypted(m, device, 0))
	}
	return all(parts)
}

// devicesOf returns the kernel's names of the block devices below a file system; none when they cannot be told.
func devicesOf(m machine, mt mount) []string {
	if mt.kind == "btrfs" { // one may have many, and the mount names any of them
		return btrfsDevices(m, mt.source)
	}
	if target := m.link("/sys/dev/block/" + mt.device); mt.onBlocks() && target != "" {
		return []string{path.Base(target)}
	}
	return nil
}

func btrfsDevices(m machine, source string) []string {
	name := path.Base(source)
	if target := m.link(source); target != "" { // /dev/mapper/… and /dev/VG/LV
		name = path.Base(target)
	}
	for _, id := range m.entries("/sys/fs/btrfs") {
		devices := m.entries("/sys/fs/btrfs/" + id + "/devices")
		if slices.Contains(devices, name) {
			return devices
		}
	}
	return nil
}

// maxStack is how many devices may lie on each other.
const maxStack = 16

// deviceEncrypted is whether all that a block device writes to disks goes through dm-crypt.
func deviceEncrypted(m machine, name string, depth int) Answer {
	dir := "/sys/class/block/" + name
	if uuid, ok := m.file(dir + "/dm/uuid"); ok && encrypts(uuid) {
		return Yes
	}
	below := m.entries(dir + "/slaves")
	if _, is := m.file(dir + "/partition"); is {
		below = []string{path.Base(path.Dir(m.link(dir)))} // …/block/sda/sda1
	}
	switch {
	case depth >= maxStack:
		return Unknown
	case len(below) == 0 && isDisk(name):
		return No
	}
	var parts []Answer
	for _, device := range below {
		parts = append(parts, deviceEncrypted(m, device, depth+1))
	}
	return all(parts)
}

// encrypts reports whether a device of the device mapper is one of cryptsetup's that encrypt, by its identifier CRYPT-TYPE-…. Devices of
// the types VERITY and INTEGRITY, which do not, are called so too.
func encrypts(uuid string) bool {
	rest, ok := strings.CutPrefix(uuid, "CRYPT-")
	kind, _, _ := strings.Cut(rest, "-")
	return ok && slices.Contains([]string{"LUKS1", "LUKS2", "PLAIN", "LOOPAES", "TCRYPT", "BITLK", "FVAULT2"}, kind)
}

// isDisk reports whether a name is a disk's that holds what is written to it as it is. Loop devices lie on files, and so on: of others nothing
// is known.
func isDisk(name string) bool {
	for _, kind := range []string{"sd", "hd", "vd", "xvd", "nvme", "mmcblk"} {
		if strings.HasPrefix(name, kind) {
			return true
		}
	}
	return false
}
