//! The user's command as a child: signals are passed on to it and its children, its exit code is ours, and it is stopped when what is
//! watched says so.

use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// Time between two looks at the child.
const LOOK: Duration = Duration::from_millis(30);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, or by a signal: its exit code, 128 and the signal's number for one.
    ByItself(u8),
    /// It was stopped, because of this.
    Stopped(String),
}

/// Starts `words` and waits for its end. Every `every`, `watch` is asked; where it gives a reason, the command gets SIGTERM, and
/// after `grace` SIGKILL. `cancel` is what Ctrl-C sets for us: while the command runs, what Ctrl-C means is its affair.
///
/// # Errors
/// When it could not be started.
pub fn run(
    words: &[String],
    every: Duration,
    grace: Duration,
    cancel: &AtomicBool,
    mut watch: impl FnMut() -> Option<String>,
) -> Result<Ended> {
    let Some((program, arguments)) = words.split_first() else {
        let advice = "give the command behind --";
        let kind = ErrorKind::NotDone { message: "there is no command".to_owned(), advice };
        return Err(kind.in_file(std::path::Path::new("--")));
    };
    let refused = |error: &std::io::Error| Error::io(std::path::Path::new(program), "start it", error);
    let mut signals = Signals::listen().map_err(|error| refused(&error))?;
    let mut command = Command::new(program);
    command.args(arguments);
    in_its_own_group(&mut command);
    let mut child = command.spawn().map_err(|error| refused(&error))?;
    let lost = |error: &std::io::Error| Error::io(std::path::Path::new(program), "wait for it", error);
    let mut looked = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|error| lost(&error))? {
            return Ok(Ended::ByItself(code(status)));
        }
        signals.pass_on(child.id());
        cancel.store(false, Ordering::Relaxed);
        if looked.elapsed() >= every {
            looked = Instant::now();
            if let Some(reason) = watch() {
                stop(&mut child, grace, &mut signals).map_err(|error| lost(&error))?;
                return Ok(Ended::Stopped(reason));
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// SIGTERM, then, after `grace`, SIGKILL for whatever of its group is left.
fn stop(child: &mut std::process::Child, grace: Duration, signals: &mut Signals) -> std::io::Result<()> {
    let group = child.id();
    terminate(group, child)?;
    let asked = Instant::now();
    while asked.elapsed() < grace && child.try_wait()?.is_none() {
        signals.pass_on(group);
        std::thread::sleep(LOOK);
    }
    kill_all(group, child)?;
    child.wait().map(|_| ())
}

#[cfg(unix)]
fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let by_signal = status.signal().and_then(|signal| u8::try_from(128 + signal).ok());
    let own = status.code().and_then(|code| u8::try_from(code & 0xff).ok());
    own.or(by_signal).unwrap_or(u8::MAX)
}

#[cfg(not(unix))]
fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(u8::MAX)
}

/// A group of its own, so that one signal reaches its workers too, and the terminal's Ctrl-C comes through us, once.
fn in_its_own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

#[cfg(unix)]
use with_signals::{Signals, kill_all, terminate};

#[cfg(unix)]
mod with_signals {
    use std::process::Child;

    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    /// Signals that schedulers and terminals send to a training: each is passed on as it is.
    const PASSED: [Signal; 6] =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

    /// What was sent to us since the last look.
    pub struct Signals(signal_hook::iterator::Signals);

    impl Signals {
        pub fn listen() -> std::io::Result<Self> {
            signal_hook::iterator::Signals::new(PASSED.map(|signal| signal as i32)).map(Self)
        }

        pub fn pass_on(&mut self, group: u32) {
            for number in self.0.pending() {
                if let Ok(signal) = Signal::try_from(number) {
                    // One that has ended in between needs no signal.
                    let _ = killpg(of(group), signal);
                }
            }
        }
    }

    fn of(group: u32) -> Pid {
        Pid::from_raw(i32::try_from(group).unwrap_or(i32::MAX))
    }

    pub fn terminate(group: u32, _child: &mut Child) -> std::io::Result<()> {
        ended_is_fine(killpg(of(group), Signal::SIGTERM))
    }

    pub fn kill_all(group: u32, _child: &mut Child) -> std::io::Result<()> {
        ended_is_fine(killpg(of(group), Signal::SIGKILL))
    }

    fn ended_is_fine(sent: nix::Result<()>) -> std::io::Result<()> {
        match sent {
            Err(error) if error != nix::errno::Errno::ESRCH && error != nix::errno::Errno::EPERM => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    fn pass_on(&mut self, _group: u32) {}
}

#[cfg(not(unix))]
fn terminate(_group: u32, child: &mut std::process::Child) -> std::io::Result<()> {
    child.kill()
}

#[cfg(not(unix))]
fn kill_all(_group: u32, child: &mut std::process::Child) -> std::io::Result<()> {
    child.kill()
}
