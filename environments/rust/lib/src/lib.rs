//! Serves a function in the Rust environment: `fn handler(request: Request) -> impl IntoResponse`.
//!
//! The environment hands over its listening socket as descriptor 3 and waits on descriptor 4 until
//! the function serves. A connection has a thread of its own.
//!
//! Promises: a handler that panics answers 500 and harms no other call; SIGTERM lets calls that run
//! come to their end. Nothing but the standard library is used, so that a function is built in a
//! second and without a registry.

mod http;
mod message;

pub use message::{Body, IntoResponse, Request, Response};

use std::net::{TcpListener, TcpStream};
use std::os::unix::io::FromRawFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Set by SIGTERM.
static STOPPING: AtomicBool = AtomicBool::new(false);

const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;
const EINTR: i32 = 4;

extern "C" {
    fn sigaction(signal: i32, new: *const Action, old: *mut Action) -> i32;
    fn poll(files: *mut Polled, count: u64, milliseconds: i32) -> i32;
}

/// `struct sigaction` of glibc on Linux.
#[repr(C)]
struct Action {
    handler: usize,
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

/// `struct pollfd`.
#[repr(C)]
struct Polled {
    file: i32,
    events: i16,
    returned: i16,
}

extern "C" fn stop(_: i32) {
    STOPPING.store(true, Ordering::SeqCst);
}

/// Calls that run.
#[derive(Default)]
pub(crate) struct Calls {
    running: Mutex<usize>,
    idle: Condvar,
}

impl Calls {
    fn change(&self, change: impl FnOnce(&mut usize)) {
        let mut running = self.running.lock().unwrap_or_else(|it| it.into_inner());
        change(&mut running);
        if *running == 0 {
            self.idle.notify_all();
        }
    }

    fn wait(&self) {
        let mut running = self.running.lock().unwrap_or_else(|it| it.into_inner());
        while *running > 0 {
            running = self.idle.wait(running).unwrap_or_else(|it| it.into_inner());
        }
    }
}

/// Counts a call while it runs.
struct Running<'a>(&'a Calls);

impl<'a> Running<'a> {
    fn begin(calls: &'a Calls) -> Self {
        calls.change(|running| *running += 1);
        Self(calls)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.change(|running| *running -= 1);
    }
}

/// Serves until SIGTERM, then ends the process.
pub fn serve<R, H>(handler: H) -> !
where
    R: IntoResponse,
    H: Fn(Request) -> R + Send + Sync + 'static,
{
    catch_signals();
    // SAFETY: the environment opened both for this process, and nothing else takes them.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    let ready = unsafe { std::fs::File::from_raw_fd(4) };
    if let Err(error) = std::io::Write::write_all(&mut &ready, b"serving\n") {
        eprintln!("tell that the function serves: {error}");
    }
    drop(ready);
    let calls = Arc::new(Calls::default());
    let handler = Arc::new(handler);
    while wait_for_connection() {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The client is gone again.
            Err(_) => continue,
        };
        let (calls, handler) = (calls.clone(), handler.clone());
        let served = std::thread::Builder::new().spawn(move || connection(stream, &*handler, &calls));
        if let Err(error) = served {
            eprintln!("serve a connection: {error}");
        }
    }
    drop(listener);
    calls.wait();
    std::process::exit(0)
}

fn catch_signals() {
    let action = Action { handler: stop as *const () as usize, mask: [0; 16], flags: 0, restorer: 0 };
    for signal in [SIGTERM, SIGINT] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action, std::ptr::null_mut()) };
    }
}

/// False once the process shall stop. The standard library's `accept` would go on after a signal.
fn wait_for_connection() -> bool {
    loop {
        if STOPPING.load(Ordering::SeqCst) {
            return false;
        }
        let mut polled = Polled { file: 3, events: 1, returned: 0 };
        // A signal just before waiting would be seen late without a bound.
        // SAFETY: one entry, which lives through the call.
        let count = unsafe { poll(&mut polled, 1, 500) };
        if count > 0 {
            return true;
        }
        if count < 0 && std::io::Error::last_os_error().raw_os_error() != Some(EINTR) {
            return false;
        }
    }
}

fn connection<R, H>(stream: TcpStream, handler: &H, calls: &Calls)
where
    R: IntoResponse,
    H: Fn(Request) -> R,
{
    // Without it answers are only later.
    _ = stream.set_nodelay(true);
    let mut connection = http::Connection::new(stream);
    // An error means that the client is gone, or speaks no HTTP and was told so.
    while let Ok(Some(head)) = connection.head() {
        let _running = Running::begin(calls);
        let request = match connection.request(head) {
            Ok(request) => request,
            Err(_) => return,
        };
        let keep = connection.keep && !STOPPING.load(Ordering::SeqCst);
        let head_only = request.method == "HEAD";
        let response = answer(request, handler);
        match connection.send(response, keep, head_only) {
            Ok(()) if keep => {}
            _ => return,
        }
    }
}

fn answer<R, H>(request: Request, handler: &H) -> Response
where
    R: IntoResponse,
    H: Fn(Request) -> R,
{
    if request.path == "/healthz" {
        return Response::new(200);
    }
    let specialises = matches!(request.path.as_str(), "/specialize" | "/v2/specialize");
    if request.method == "POST" && specialises {
        return Response::new(400).text("Not a generic container");
    }
    std::panic::catch_unwind(AssertUnwindSafe(|| handler(request).into_response())).unwrap_or_else(|problem| {
        let words = problem
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| problem.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Response::new(500).text(format!("panic: {words}"))
    })
}
