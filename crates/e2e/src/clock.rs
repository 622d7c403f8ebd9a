//! Runs a program whose clock is wrong, while the machine's is right.
//!
//! The agent is linked statically, so a library that is loaded before it (faketime) changes
//! nothing. It is traced instead: every answer to `clock_gettime(CLOCK_REALTIME)` is moved by
//! some seconds. The page by which programs read the clock without a system call is hidden
//! from it when it starts. Its threads are traced too, but not the processes that it starts:
//! those of a plan are written in Go and keep the machine's clock. Only for x86-64.

use std::ffi::c_void;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc::{
    CLOCK_REALTIME, CLOCK_REALTIME_COARSE, PTRACE_EVENT_EXEC, SYS_clock_gettime as CLOCK_GETTIME,
    SYS_gettimeofday as GETTIMEOFDAY,
};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Entries of the table that the kernel gives to a program: one to skip, and the page.
const AT_NULL: i64 = 0;
const AT_IGNORE: i64 = 1;
const AT_SYSINFO_EHDR: i64 = 33;
/// Size of a word.
const WORD: u64 = 8;

/// Runs a command to its end with its clock moved by so many seconds.
///
/// # Errors
/// When it cannot be started or traced.
pub fn run_shifted(seconds: i64, command: &[String]) -> Result<ExitCode> {
    ensure!(!command.is_empty(), "no command is given");
    let child = Command::new("/bin/sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .args(command)
        .spawn()
        .context("start the command")?;
    let program = Pid::from_raw(i32::try_from(child.id())?);
    let stopped = waitpid(program, Some(WaitPidFlag::WUNTRACED)).context("wait for its stop")?;
    ensure!(
        matches!(stopped, WaitStatus::Stopped(..)),
        "it did not stop but: {stopped:?}"
    );
    ptrace::attach(program).context("trace it")?;
    waitpid(program, Some(WaitPidFlag::__WALL)).context("wait until it is traced")?;
    let options = Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(program, options).context("set how it is traced")?;
    kill(program, Signal::SIGCONT).context("let it go on")?;
    ptrace::syscall(program, None).context("let it run")?;
    follow(program, seconds)
}

/// Looks at every stop of the program and its threads until it ends.
fn follow(program: Pid, seconds: i64) -> Result<ExitCode> {
    loop {
        let status = waitpid(None, Some(WaitPidFlag::__WALL)).context("wait for a stop")?;
        let (thread, signal) = match status {
            WaitStatus::Exited(pid, code) if pid == program => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == program => {
                bail!("the program was ended by {signal}");
            }
            WaitStatus::PtraceSyscall(thread) => {
                gone_is_fine(after_call(thread, seconds))?;
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                if event == PTRACE_EVENT_EXEC {
                    gone_is_fine(hide_page(thread))?;
                }
                (thread, None)
            }
            // How a new thread begins, and what the start of the tracing leaves.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        gone_is_fine(ptrace::syscall(thread, signal))?;
    }
}

/// A thread may be killed between its stop and what is done about it.
fn gone_is_fine(result: nix::Result<()>) -> Result<()> {
    match result {
        Err(Errno::ESRCH) => Ok(()),
        other => other.context("change what the program sees"),
    }
}

fn read(thread: Pid, address: u64) -> nix::Result<i64> {
    ptrace::read(thread, address as *mut c_void)
}

fn write(thread: Pid, address: u64, word: i64) -> nix::Result<()> {
    ptrace::write(thread, address as *mut c_void, word)
}

/// Moves the time that a call answered with. At its beginning there is no answer yet.
fn after_call(thread: Pid, seconds: i64) -> nix::Result<()> {
    let registers = ptrace::getregs(thread)?;
    let call = i64::try_from(registers.orig_rax).unwrap_or(-1);
    let clock = i32::try_from(registers.rdi).unwrap_or(-1);
    let time = match call {
        CLOCK_GETTIME if [CLOCK_REALTIME, CLOCK_REALTIME_COARSE].contains(&clock) => registers.rsi,
        GETTIMEOFDAY => registers.rdi,
        _ => return Ok(()),
    };
    if registers.rax != 0 || time == 0 {
        return Ok(());
    }
    let now = read(thread, time)?;
    write(thread, time, now + seconds)
}

/// Walks over arguments and environment to the table and takes the page out of it.
fn hide_page(thread: Pid) -> nix::Result<()> {
    let mut place = ptrace::getregs(thread)?.rsp + WORD;
    for _ in ["arguments", "environment"] {
        while read(thread, place)? != 0 {
            place += WORD;
        }
        place += WORD;
    }
    loop {
        match read(thread, place)? {
            AT_NULL => return Ok(()),
            AT_SYSINFO_EHDR => return write(thread, place, AT_IGNORE),
            _ => place += 2 * WORD,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_program_reads_another_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("time");
        let command = ["/bin/date".to_owned(), "+%s".to_owned()];
        let line = format!("exec \"$@\" > {}", file.display());
        let shell = ["/bin/sh", "-c", line.as_str(), "sh"].map(str::to_owned);
        run_shifted(-600, &[&shell[..], &command].concat()).unwrap();
        let read: u64 = std::fs::read_to_string(&file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert!((590..=610).contains(&(now - read)), "{read} at {now}");
    }
}
