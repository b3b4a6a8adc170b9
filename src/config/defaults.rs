//! The lowest layer.

use crate::cli::Settings;

/// The defaults, as the file would say them. What has none is off:
/// `idle-message`, `pid-file`, `admin`, `admin-host`, `access-log-file`, `state-file`.
const DEFAULTS: &str = r#"
port = 8090
listen = ["*"]
connection-backlog = 128
allow-shared-port = false
idle-timeout = "10s"
enable-send-reset = false
write-timeout = "1m"
linger-timeout = "10s"
keepalive-delay = 0
enable-nodelay = true
buffer-size = "256KiB"
splice = "auto"
workers = 0
max-connections = 0
max-concurrent-connections = 0
worker-timeout = "30s"
cpu-affinity = false
balance = "hash"
busy-poll = 0
graceful-timeout = "8s"
shutdown-delay = 0
drain-timeout = "1h"
drain-spread = "5s"
log-level = "INFO"
log-format = "text"
enable-log-timestamps = false
access-log = "off"
log-empty = false
min-healthy = 1
daemon = false
"#;

/// The lowest layer: every setting has a value, but for those that are off without one.
pub fn defaults() -> Settings {
    toml::from_str(DEFAULTS).expect("the defaults are valid settings")
}
