package audit

import "golang.org/x/sys/windows"

// freeBytes returns what this user can still write where dir is, or -1.
func freeBytes(dir string) int64 {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return -1
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, nil, nil); err != nil {
		return -1
	}
	return int64(min(free, 1<<62))
}
