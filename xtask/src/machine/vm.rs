//! A virtual machine with a Debian as people install it: systemd, a kernel of its own, cgroups
//! of version 2. It runs without hardware acceleration, so it is slow and runs anywhere.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, KeyBuilder, remove};
use crate::progress;

/// Name of the machine, and so of the host.
pub const NAME: &str = "site1";
/// Address at which the machine reaches this one.
pub const HERE: &str = "10.0.2.2";

const FORMAT: u32 = 1;
const SUITE: &str = "bookworm";
/// What a small server has; no iptables and no containerd among it.
const PACKAGES: &str = "systemd,systemd-sysv,systemd-resolved,udev,dbus,linux-image-cloud-amd64,\
iproute2,nftables,conntrack,mount,kmod,openssh-server,ca-certificates,procps";
const NETWORK: &str = "[Match]\nName=en*\n[Network]\nDHCP=yes\n";
/// Longest time from power-on to a login: emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(400);
/// Longest time of one command there, in seconds.
const COMMAND_LIMIT: &str = "420";

/// The machine; its end takes the process with it.
pub struct Vm {
    folder: PathBuf,
    port: u16,
    process: Child,
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Gone already is as good.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Vm {
    /// Makes the disk in `folder` and switches the machine on; waits for the login.
    ///
    /// # Errors
    /// When a tool is missing, or nobody answers in time.
    pub fn start(cache: &Cache, folder: &Path) -> Result<Self> {
        let root = debian(cache)?;
        disk(cache, folder, &root)?;
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("find a free port")?
            .port();
        let console = File::create(folder.join("console.log")).context("make the console's log")?;
        let network = format!("user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22");
        let qemu = "qemu-system-x86_64";
        progress::output(Command::new(qemu).arg("--version"))
            .context("qemu-system-x86_64 is needed: apt-get install qemu-system-x86")?;
        let process = with_us(qemu)
            .current_dir(folder)
            .args(["-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi"])
            .args(["-smp", "2", "-m", "3072", "-display", "none"])
            .args(["-kernel", "vmlinuz", "-initrd", "initrd"])
            .args(["-append", "root=/dev/vda rw console=ttyS0"])
            .args(["-drive", "file=disk,if=virtio,format=raw,cache=unsafe"])
            .args(["-netdev", &network, "-device", "virtio-net-pci,netdev=n"])
            .args(["-device", "virtio-rng-pci", "-monitor", "none"])
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(console)
            .spawn()
            .context("start qemu-system-x86_64")?;
        let vm = Self {
            folder: folder.to_owned(),
            port,
            process,
        };
        vm.booted("")?;
        Ok(vm)
    }

    /// Runs a shell script as root; its output when it succeeds.
    ///
    /// # Errors
    /// With what it said, when it fails.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self
            .ssh(script)
            .stdin(Stdio::null())
            .output()
            .context("start ssh")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let said = text(&output.stdout);
        if !output.status.success() {
            bail!("{script}\n{said}\n{}", text(&output.stderr));
        }
        Ok(said)
    }

    /// Runs a shell script with a file as its input.
    ///
    /// # Errors
    /// When it fails.
    pub fn feed(&self, file: &Path, script: &str) -> Result<()> {
        let input = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let status = self.ssh(script).stdin(input).stdout(Stdio::null()).status();
        let status = status.context("start ssh")?;
        if !status.success() {
            bail!("{script}: {status}");
        }
        Ok(())
    }

    fn ssh(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        let port = self.port.to_string();
        command
            .args([COMMAND_LIMIT, "ssh", "-q", "-p", &port, "-i"])
            .arg(self.folder.join("key"))
            .args(["-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=20"])
            .args(["root@127.0.0.1", script]);
        command
    }

    /// Restarts the machine as a person does; returns when it answers again.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn reboot(&self) -> Result<()> {
        let before = self.run("cat /proc/sys/kernel/random/boot_id")?;
        // The connection may break before the command has ended.
        _ = self.run("systemctl reboot");
        self.booted(&before)
    }

    fn booted(&self, before: &str) -> Result<()> {
        eventually("the machine answers", BOOT_LIMIT, || {
            let now = self.run("cat /proc/sys/kernel/random/boot_id")?;
            if now == before {
                bail!("it has not gone down yet");
            }
            Ok(())
        })
    }
}

/// A program that ends with this one, however this one ends.
pub fn with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Asks until there is an answer; the last refusal explains a time-out.
///
/// # Errors
/// When there is none in time.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => pause(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at a condition, in a program of one thread"
)]
fn pause() {
    std::thread::sleep(Duration::from_secs(2));
}

/// The root as an archive, kernel and initial file system among it.
fn debian(cache: &Cache) -> Result<PathBuf> {
    let mut key = KeyBuilder::new("machine", FORMAT);
    key.text("suite", SUITE).text("packages", PACKAGES);
    let entry = cache.entry("roots", "machine", key.finish(), |work| {
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--variant=minbase", "--format=tar", "--skip=output/dev"])
            .arg(format!("--include={PACKAGES}"))
            .arg("--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*")
            .arg("--customize-hook=chroot \"$1\" systemctl enable systemd-networkd systemd-resolved ssh")
            .arg(SUITE)
            .arg(work.join("root.tar"));
        progress::run("machine", "mmdebstrap", &mut command, &cache.log("machine"))
    })?;
    Ok(entry.join("root.tar"))
}

/// A disk, the kernel beside it, and a key to log in with.
fn disk(cache: &Cache, folder: &Path, archive: &Path) -> Result<()> {
    let root = folder.join("root");
    let file = |path: &str, text: &str| {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    fs::create_dir_all(&root).context("make the folder of the root")?;
    let run = |command: &mut Command| {
        progress::run("machine", "making the disk", command, &cache.log("machine"))
    };
    run(Command::new("tar")
        .args(["--numeric-owner", "-xf"])
        .arg(archive)
        .arg("-C")
        .arg(&root))?;
    file("etc/hostname", &format!("{NAME}\n"))?;
    file(
        "etc/hosts",
        &format!("127.0.0.1 localhost\n127.0.1.1 {NAME}\n"),
    )?;
    file("etc/fstab", "/dev/vda / ext4 defaults 0 1\n")?;
    file("etc/systemd/network/80-dhcp.network", NETWORK)?;
    let resolv = root.join("etc/resolv.conf");
    _ = fs::remove_file(&resolv);
    std::os::unix::fs::symlink("/run/systemd/resolve/stub-resolv.conf", resolv)
        .context("link resolv.conf")?;
    let script = "set -e; cd \"$1\"; ssh-keygen -q -t ed25519 -N '' -f key; \
         mkdir -p root/dev; mkdir -m 700 -p root/root/.ssh; cp key.pub root/root/.ssh/authorized_keys; \
         chown -R 0:0 root/root/.ssh; cp root/boot/vmlinuz-* vmlinuz; \
         cp root/boot/initrd.img-* initrd; truncate -s 10G disk; \
         mke2fs -q -t ext4 -d root disk";
    run(Command::new("sh").args(["-c", script, "disk"]).arg(folder))?;
    remove(&root)
}
