"""Prints a folder's whole tree, an entry a line, as JSON: run in a guest and on the host, to be compared."""
import hashlib, json, os, stat, sys

top = os.fsencode(sys.argv[1])
# Other filesystems are mounted there in a guest; names that are the agent's and forkd's own.
skipped = {b"proc", b"sys", b"dev", b"run", b"lost+found", b"etc/forkd", b"etc/hostname", b"etc/machine-id"}
device = os.lstat(top).st_dev
names = {}  # inode: its first name


def show(path, name):
    found = os.lstat(path)
    if name in skipped or found.st_dev != device:
        return
    kind = stat.S_IFMT(found.st_mode)
    xattrs = {key: os.getxattr(path, key, follow_symlinks=False).hex() for key in os.listxattr(path, follow_symlinks=False)}
    entry = dict(type=stat.filemode(kind)[0], mode=oct(stat.S_IMODE(found.st_mode)), uid=found.st_uid, gid=found.st_gid, xattrs=xattrs)
    if not stat.S_ISDIR(kind):
        entry.update(mtime=int(found.st_mtime), links=found.st_nlink, first=names.setdefault(found.st_ino, os.fsdecode(name)))
    if stat.S_ISREG(kind):
        with open(path, "rb") as file:
            entry.update(size=found.st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    elif stat.S_ISLNK(kind):
        entry.update(target=os.fsdecode(os.readlink(path)))
    print(json.dumps({"name": os.fsdecode(name), **entry}, sort_keys=True))
    if stat.S_ISDIR(kind):
        for below in sorted(os.listdir(path)):
            show(os.path.join(path, below), os.path.join(name, below))


show(top, b"")
