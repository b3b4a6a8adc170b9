//! The commands beside the daemon. `check` and `bench` are clients of any echo server that verify every
//! byte of the echo; `doctor` examines the machine.

pub mod bench;
pub mod check;
pub mod doctor;
mod payload;
mod socket;
pub mod target;

/// Parses the options of a command from one line, for tests.
#[cfg(test)]
fn parse_options<T: clap::Args>(line: &str) -> T {
    let command =
        T::augment_args(clap::Command::new("test").no_binary_name(true).args_override_self(true));
    let matches = command.try_get_matches_from(line.split_whitespace());
    T::from_arg_matches(&matches.expect(line)).expect(line)
}
