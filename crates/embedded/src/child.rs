//! temporary
use crate::error::Error;
use crate::files::Files;
use crate::processes::Component;
use crate::status::ProcessStatus;
use std::sync::Arc;
use tokio::sync::watch;
pub(crate) struct Child {
    pub state: watch::Receiver<ProcessStatus>,
    pid: i32,
}
impl Child {
    pub fn start(c: &Component, files: &Files) -> Result<Arc<Self>, Error> {
        let log = std::fs::File::create(files.logs().join(format!("{}.log", c.name)))
            .map_err(Error::file("make", "log"))?;
        let mut p = tokio::process::Command::new(&c.program)
            .args(&c.arguments)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(std::process::Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::file("start", &c.program))?;
        let pid = p.id().unwrap_or(0);
        let (tx, rx) = watch::channel(ProcessStatus {
            name: c.name.into(),
            state: "starting".into(),
            pid: Some(pid),
            ready: false,
        });
        let check = c.check.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = p.wait() => { tx.send_modify(|s| { s.ready = false; s.state = "ended".into(); s.pid = None; }); return; }
                    ok = async { tokio::time::sleep(std::time::Duration::from_millis(100)).await; check.ask().await } => { if ok && !tx.borrow().ready { tx.send_modify(|s| { s.ready = true; s.state = "ready".into(); }); } }
                }
            }
        });
        Ok(Arc::new(Self {
            state: rx,
            pid: pid as i32,
        }))
    }
    pub async fn ready(&self) {
        let _ = self.state.clone().wait_for(|s| s.ready).await;
    }
    pub async fn stop(&self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.pid),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.state.clone().wait_for(|s| s.pid.is_none()).await;
    }
}
