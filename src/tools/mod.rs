//! The commands beside the daemon. `check` and `bench` are clients of any echo server that verify every
//! byte of the echo; `doctor` examines the machine.

pub mod bench;
pub mod check;
pub mod doctor;
mod payload;
mod socket;
pub mod target;

/// Returns the message for a server that cannot be connected to. `refused` is `true` if the host
/// rejected the connection.
fn cannot_connect(target: &target::Target, reason: &str, refused: bool) -> String {
    let hint = if refused { "; is the daemon running?" } else { "" };
    format!("cannot connect to {target}: {reason}{hint}")
}

/// Parses the options of a command from one line, for tests.
#[cfg(test)]
fn parse_options<T: clap::Args>(line: &str) -> T {
    let command =
        T::augment_args(clap::Command::new("test").no_binary_name(true).args_override_self(true));
    let matches = command.try_get_matches_from(line.split_whitespace());
    T::from_arg_matches(&matches.expect(line)).expect(line)
}

#[cfg(test)]
mod tests {
    use super::cannot_connect;
    use super::target::Target;

    #[test]
    fn only_a_refused_connection_asks_for_the_daemon() {
        let target = Target::default();
        assert_eq!(
            cannot_connect(&target, "connection refused", true),
            "cannot connect to 127.0.0.1:8090: connection refused; is the daemon running?"
        );
        assert_eq!(
            cannot_connect(&target, "network is unreachable", false),
            "cannot connect to 127.0.0.1:8090: network is unreachable"
        );
    }
}
