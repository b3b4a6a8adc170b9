//! The table of contents: read what was typed, start the log, hand the worker to the controller,
//! choose the exit code.

use std::io::Write;
use std::process::ExitCode;

use tcp_echo::cli::{Cli, EarlyExit};
use tcp_echo::config::{Config, print};
use tcp_echo::exit::Exit;
use tcp_echo::process::daemon;
use tcp_echo::process::title::TitleArea;
use tcp_echo::{controller, logging, worker};

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(EarlyExit::Text(text)) => return say(&text),
        Err(EarlyExit::Usage(line)) => return refuse(line, Exit::Usage),
    };
    if cli.print_config {
        return print::effective(&cli).map_or_else(|e| refuse(e, Exit::Usage), |text| say(&text));
    }
    let config = match Config::load(&cli) {
        Ok(config) => config,
        Err(error) => return refuse(error, Exit::Usage),
    };
    if cli.check_config {
        return say("configuration is valid\n");
    }
    serve(&config).into()
}

fn serve(config: &Config) -> Exit {
    let launch = match config.process.daemon.then(daemon::daemonize).transpose() {
        Ok(launch) => launch,
        Err(error) => {
            eprintln!("tcp-echo: cannot go into the background: {error}");
            return Exit::Failure;
        }
    };
    logging::init(&config.log);
    controller::run(config, worker::run, TitleArea::claim(), launch).unwrap_or_else(|error| {
        tracing::error!(target: logging::FATAL, "{error}");
        Exit::Failure
    })
}

fn say(text: &str) -> ExitCode {
    // A reader that has gone away (`| head`) is no reason to fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Exit::Ok.into()
}

fn refuse(reason: impl std::fmt::Display, exit: Exit) -> ExitCode {
    eprintln!("tcp-echo: {reason}");
    exit.into()
}
