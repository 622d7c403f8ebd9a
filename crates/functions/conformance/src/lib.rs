//! Runs an environment's server as a plain process and checks it against the contract.
//!
//! Every environment has the same small functions in `environments/<language>/conformance/`:
//! `hello`, `report` (method, path, query and headers as JSON), `echo` (the body), `fail`,
//! `broken` (does not load) and, where the language can, `stream`. [`Subject`] starts its server
//! the way its image does, on a port of its own. Functions of compiled languages go through the
//! environment's `build`, as in its builder.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Where the files of an environment are in its image.
const INSTALLED: &str = "/opt/environment";
/// How long a server may take to listen, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// `environment.json`, as far as it is needed here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    command: Vec<String>,
    packages: Vec<String>,
    #[serde(default)]
    builder_packages: Vec<String>,
    /// Functions have to be built before they can be loaded.
    #[serde(default)]
    built: bool,
}

/// A running server.
pub struct Subject {
    /// Folder of the environment.
    pub folder: PathBuf,
    description: Description,
    address: SocketAddr,
    child: Child,
    client: Client<HttpConnector, Full<Bytes>>,
    files: tempfile::TempDir,
}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: hyper::HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Subject {
    /// Starts the server of `environments/<language>` and waits until it listens.
    ///
    /// # Errors
    /// When its programs are not installed, or it does not listen.
    pub async fn start(language: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../environments");
        let folder = root.join(language);
        let path = folder.join("environment.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let description: Description =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let local = folder.canonicalize().context("find the folder")?;
        let local = local.to_string_lossy();
        let words: Vec<String> = description
            .command
            .iter()
            .map(|word| word.replace(INSTALLED, &local))
            .collect();
        let (program, arguments) = words.split_first().context("command is empty")?;
        let address = free_address()?;
        let files = tempfile::tempdir().context("make a folder")?;
        let child = Command::new(program)
            .args(arguments)
            .env("PORT", address.port().to_string())
            .env("USERFUNC", files.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // So that whatever it starts can be ended with it.
            .process_group(0)
            .spawn()
            .with_context(|| {
                let packages = description.packages.join(" ");
                format!("start {program}; is it installed? apt-get install {packages}")
            })?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut subject = Self {
            folder,
            description,
            address,
            child,
            client,
            files,
        };
        subject.until_it_listens().await?;
        Ok(subject)
    }

    async fn until_it_listens(&mut self) -> Result<()> {
        let began = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait().context("look at the server")? {
                bail!(
                    "{} ended with {status} before it listened",
                    self.folder.display()
                );
            }
            if began.elapsed() > START {
                bail!("{} does not listen", self.folder.display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Path of one of the environment's functions for this test, whatever its ending.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn function(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join("conformance");
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("read a folder")?.path();
            if path.file_stem().is_some_and(|stem| stem == name) {
                return Ok(path);
            }
        }
        bail!("{} has no function {name}", folder.display())
    }

    /// Puts a function where a fetcher puts it, without its ending or as it was built, and gives
    /// that path.
    ///
    /// # Errors
    /// When it cannot be copied or built.
    pub fn place(&self, function: &str, name: &str) -> Result<PathBuf> {
        let to = self.files.path().join(name);
        let from = self.function(function)?;
        if self.description.built {
            self.build(&from, &to)?;
        } else {
            std::fs::copy(from, &to).context("copy the function")?;
        }
        Ok(to)
    }

    /// Puts a function into a package that is a directory, by this name, and gives its path.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn place_in_directory(&self, function: &str, file: &str) -> Result<PathBuf> {
        let to = self.files.path().join("deployarchive");
        std::fs::create_dir(&to).context("make a package")?;
        std::fs::copy(self.function(function)?, to.join(file)).context("copy the function")?;
        Ok(to)
    }

    /// Runs the environment's `build`, as its builder does.
    fn build(&self, from: &Path, to: &Path) -> Result<()> {
        let source = tempfile::tempdir().context("make a folder")?;
        let file = from.file_name().context("a function without a name")?;
        std::fs::copy(from, source.path().join(file)).context("copy the function")?;
        let output = Command::new(self.folder.canonicalize()?.join("build"))
            .env("SRC_PKG", source.path())
            .env("DEPLOY_PKG", to)
            .current_dir(source.path())
            .output()
            .context("run build")?;
        if !output.status.success() {
            bail!(
                "build of {} failed; is all of it installed? apt-get install {}\n{}{}",
                from.display(),
                self.description.builder_packages.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Specialises by version 2 of the contract.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn specialise(&self, function: &str) -> Result<Answer> {
        let path = self.place(function, "deployarchive")?;
        self.load(&path, "").await
    }

    /// Specialises by version 2 of the contract with what is at a path.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn load(&self, path: &Path, entry: &str) -> Result<Answer> {
        let body = serde_json::json!({
            "filepath": path, "functionName": entry, "url": "/",
            "FunctionMetadata": { "name": "f", "labels": { "filepath": "another" } },
            "envVersion": 3,
        });
        self.call(Method::POST, "/v2/specialize", &[], body.to_string())
            .await
    }

    /// One request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let response = self.open(method, target, headers, body).await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response
            .into_body()
            .collect()
            .await
            .context("read the body")?;
        Ok(Answer {
            status,
            headers,
            body: body.to_bytes(),
        })
    }

    /// One request, whose body is still to come.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn open(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<hyper::body::Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{target}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body.into()))
            .context("make a request")?;
        let waiting = self.client.request(request);
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .context("no answer within a minute")?
            .context("call")
    }

    /// Sends these bytes and gives all that comes back until the server closes.
    ///
    /// # Errors
    /// When it does not close, or cannot be reached.
    pub async fn exchange(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = TcpStream::connect(self.address).await.context("connect")?;
        stream.write_all(bytes).await.context("write")?;
        let mut answer = Vec::new();
        tokio::time::timeout(START, stream.read_to_end(&mut answer))
            .await
            .context("the server does not close the connection")?
            .context("read")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Asks the server to stop, as the kubelet does.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn terminate(&self) -> Result<()> {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .context("run kill")?;
        anyhow::ensure!(status.success(), "kill failed");
        Ok(())
    }

    /// Waits for the server's end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(&mut self) -> Result<()> {
        let began = Instant::now();
        while self
            .child
            .try_wait()
            .context("look at the server")?
            .is_none()
        {
            if began.elapsed() > START {
                bail!("the server goes on after SIGTERM");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            // Its number may be another's by now.
            return;
        }
        let group = format!("-{}", self.child.id());
        // Ended already is as good.
        _ = Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        _ = self.child.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}
