//! Real programs between the daemon and a registry: a web server as mirror and gate, proxies.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::authority::Authority;
use crate::programs::require;

/// A running program that listens on loopback; dropped, it ends.
#[derive(Debug)]
pub struct Way {
    child: Child,
    directory: TempDir,
    port: u16,
}

impl Way {
    /// `nginx` over https before the plain registry at `target`. With `clients`, it lets only those
    /// through who show a certificate of that authority.
    pub fn nginx(target: &str, server: &Authority, clients: Option<&Authority>) -> Self {
        let (directory, port) = (folder(), free_port());
        let path = directory.path();
        server.write(path);
        let gate = clients.map_or_else(String::new, |authority| {
            fs::write(path.join("clients.pem"), authority.certificate()).expect("write");
            let file = path.join("clients.pem");
            format!(
                "ssl_verify_client on; ssl_client_certificate {};",
                file.display()
            )
        });
        let folder = path.display();
        let config = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; \
             events {{}} http {{ access_log {folder}/access.log; \
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; \
             fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; \
             scgi_temp_path {folder}/scgi; \
             server {{ listen 127.0.0.1:{port} ssl http2; listen [::1]:{port} ssl http2; \
             ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key; {gate} \
             location / {{ proxy_pass http://{target}; proxy_set_header Host $http_host; }} }} }}"
        );
        let file = path.join("nginx.conf");
        fs::write(&file, config).expect("write nginx.conf");
        let mut command = Command::new(require_admin("nginx", "nginx-light"));
        command.arg("-c").arg(&file).arg("-p").arg(path);
        Self::launch(command, directory, port)
    }

    /// `tinyproxy`, an HTTP proxy, which takes anybody, or the user `user` with the password
    /// `password` alone.
    pub fn tinyproxy(asks_for_password: bool) -> Self {
        let (directory, port) = (folder(), free_port());
        let log = directory.path().join("access.log");
        let password = if asks_for_password {
            "BasicAuth user password\n"
        } else {
            ""
        };
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogFile \"{}\"\nLogLevel Info\n{password}",
            log.display()
        );
        let file = directory.path().join("tinyproxy.conf");
        fs::write(&file, config).expect("write tinyproxy.conf");
        let mut command = Command::new(require("tinyproxy", "tinyproxy"));
        command.arg("-d").arg("-c").arg(&file);
        Self::launch(command, directory, port)
    }

    /// `microsocks`, a SOCKS5 proxy.
    pub fn microsocks() -> Self {
        let (directory, port) = (folder(), free_port());
        let mut command = Command::new(require("microsocks", "microsocks"));
        command.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
        Self::launch(command, directory, port)
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it says of what went through it, in its own format.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.directory.path().join(name));
        let logs = ["access.log", "output"].map(|name| read(name).unwrap_or_default());
        logs.concat()
    }

    fn launch(mut command: Command, directory: TempDir, port: u16) -> Self {
        let output = fs::File::create(directory.path().join("output")).expect("make the log");
        let errors = output.try_clone().expect("duplicate the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let mut way = Self {
            child,
            directory,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = way.child.try_wait().expect("wait for the program");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{command:?} does not listen:\n{}",
                way.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        way
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("the port").port()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}

/// Servers are where only root has them in `PATH`.
fn require_admin(program: &str, package: &str) -> std::path::PathBuf {
    let usual = Path::new("/usr/sbin").join(program);
    if usual.is_file() {
        return usual;
    }
    require(program, package)
}
