/* A small stand-in for pyxis in tests: it takes pyxis' options and runs each task in a squashfs file or a folder.
 * Each task gets a mount namespace of its own: the image below a writable tmpfs, the asked mounts, then chroot.
 * Needs a slurmd that runs as root. Differences from pyxis: the root is writable, the host's /tmp, users and groups are
 * visible, and images come from files only.
 *   gcc -shared -fPIC -O2 -o stand_in_for_pyxis.so stand_in_for_pyxis.c     (Debian: gcc libslurm-dev)
 *   plugstack.conf:  required /path/stand_in_for_pyxis.so
 */
#define _GNU_SOURCE
#include <slurm/spank.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <errno.h>
SPANK_PLUGIN(stand_in_for_pyxis, 1);
static char *o_image, *o_mounts, *o_workdir;
static int set(int val, const char *arg, int remote) {
	if (val == 4) return 0; /* the home folder is never mounted */
	char **p = val == 1 ? &o_image : val == 2 ? &o_mounts : &o_workdir;
	if (!arg || !*arg) return -1;
	free(*p); *p = strdup(arg); return 0;
}
static struct spank_option opts[] = {
	{ "container-image", "PATH", "squashfs file or directory used as the root file system", 1, 1, set },
	{ "container-mounts", "SRC:DST[:FLAGS],...", "bind mounts inside the container", 1, 2, set },
	{ "container-workdir", "PATH", "working directory inside the container", 1, 3, set },
	{ "no-container-mount-home", NULL, "leave the home folder out, which is the case anyway", 0, 4, set },
	SPANK_OPTIONS_TABLE_END
};
int slurm_spank_init(spank_t sp, int ac, char **av) {
	for (int i = 0; opts[i].name; i++)
		if (spank_option_register(sp, &opts[i]) != ESPANK_SUCCESS) return -1;
	return 0;
}
static int bind1(const char *root, const char *src, const char *dst, unsigned long extra) {
	char to[4096]; struct stat st;
	snprintf(to, sizeof to, "%s%s", root, dst);
	if (stat(src, &st)) { slurm_error("stand_in_for_pyxis: mount source %s: %s", src, strerror(errno)); return -1; }
	char cmd[9000];
	snprintf(cmd, sizeof cmd, S_ISDIR(st.st_mode) ? "mkdir -p '%s'" : "mkdir -p \"$(dirname '%s')\" && touch '%s'", to, to);
	if (system(cmd)) { slurm_error("stand_in_for_pyxis: cannot create %s", to); return -1; }
	if (mount(src, to, NULL, MS_BIND | MS_REC, NULL) ||
	    (extra && mount(NULL, to, NULL, MS_BIND | MS_REMOUNT | extra, NULL))) {
		slurm_error("stand_in_for_pyxis: mount %s -> %s: %s", src, dst, strerror(errno)); return -1; }
	return 0;
}
/* runs as root in the task process, after fork and before exec */
int slurm_spank_task_init_privileged(spank_t sp, int ac, char **av) {
	if (!o_image || spank_context() != S_CTX_REMOTE) return 0;
	static const char base[] = "/run/stand_in_for_pyxis"; char cmd[8192], root[64]; struct stat st;
	if (stat(o_image, &st)) { slurm_error("stand_in_for_pyxis: No such image: %s", o_image); return -1; }
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) { slurm_error("stand_in_for_pyxis: unshare: %s", strerror(errno)); return -1; }
	if (mkdir(base, 0755) && errno != EEXIST) return -1; /* same path for all: the mount below is private to this task */
	if (mount("tmpfs", base, "tmpfs", 0, "mode=0755")) { slurm_error("stand_in_for_pyxis: tmpfs: %s", strerror(errno)); return -1; }
	snprintf(root, sizeof root, "%s/root", base);
	snprintf(cmd, sizeof cmd, "cd %s && mkdir lower upper work root && %s '%s' lower 1>&2 && "
		 "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root 1>&2",
		 base, S_ISDIR(st.st_mode) ? "mount --bind" : "mount -t squashfs -o loop,ro", o_image);
	if (system(cmd)) { slurm_error("stand_in_for_pyxis: could not set up %s", o_image); return -1; }
	const char *sys[] = { "/proc", "/sys", "/dev", "/tmp", "/etc/hosts", "/etc/resolv.conf", "/etc/passwd", "/etc/group", NULL };
	for (int i = 0; sys[i]; i++) {
		if (access(sys[i], F_OK) == 0 && bind1(root, sys[i], sys[i], 0)) return -1;
	}
	if (o_mounts) {
		char *save = NULL, *all = strdup(o_mounts);
		for (char *m = strtok_r(all, ",", &save); m; m = strtok_r(NULL, ",", &save)) {
			char *s2 = NULL, *src = strtok_r(m, ":", &s2), *dst = strtok_r(NULL, ":", &s2), *fl = strtok_r(NULL, ":", &s2);
			if (bind1(root, src, dst ? dst : src, fl && strstr(fl, "ro") ? MS_RDONLY : 0)) return -1;
		}
		free(all);
	}
	if (chroot(root)) { slurm_error("stand_in_for_pyxis: chroot: %s", strerror(errno)); return -1; }
	char cwd[4096] = "/";
	const char *wd = o_workdir;
	if (!wd && spank_getenv(sp, "PWD", cwd, sizeof cwd) == ESPANK_SUCCESS) wd = cwd;
	if (chdir(wd ? wd : "/")) { if (o_workdir) { slurm_error("stand_in_for_pyxis: workdir %s: %s", wd, strerror(errno)); return -1; } if (chdir("/")) return -1; }
	return 0;
}
