//! The table of contents: read what was typed, start the log, hand the worker and the admin process to
//! the controller, choose the exit code.

use std::process::ExitCode;

use tcp_echo::cli::{Cli, EarlyExit, SideCommand};
use tcp_echo::config::{Config, ConfigError, print};
use tcp_echo::controller::handover::{self, Handover};
use tcp_echo::controller::{self, Boot};
use tcp_echo::exit::Exit;
use tcp_echo::process::daemon::{self, Launch};
use tcp_echo::process::exec::Invocation;
use tcp_echo::process::output;
use tcp_echo::process::title::TitleArea;
use tcp_echo::{admin, client, doctor, logging, worker};

fn main() -> ExitCode {
    let mut cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(EarlyExit::Text(text)) => return say(&text),
        Err(EarlyExit::Usage(line)) => return refuse(line, Exit::Usage),
    };
    match cli.command.take() {
        Some(SideCommand::Client(command)) => return client::run(command).into(),
        Some(SideCommand::Doctor(arguments)) => return examine(&cli, arguments.json),
        None => {}
    }
    if cli.print_config {
        return print::effective(&cli).map_or_else(|e| refuse(e, Exit::Usage), |text| say(&text));
    }
    let config = Config::load(&cli);
    if cli.check_config {
        return config.map_or_else(|e| refuse(e, Exit::Usage), |config| approve(&config));
    }
    match Handover::take() {
        Err(error) => refuse(format!("cannot take over: {error}"), Exit::Failure),
        Ok(None) => config.map_or_else(|e| refuse(e, Exit::Usage), |config| start(config).into()),
        Ok(Some(note)) => go_on(config, note, &cli).into(),
    }
}

/// `doctor`, for the daemon that these settings would make.
fn examine(cli: &Cli, json: bool) -> ExitCode {
    Config::load(cli)
        .map_or_else(|e| refuse(e, Exit::Usage), |config| doctor::run(&config, json).into())
}

fn start(config: Config) -> Exit {
    let launch = match config.process.daemon.then(daemon::daemonize).transpose() {
        Ok(launch) => launch,
        Err(error) => {
            output::complain(format_args!("tcp-echo: cannot go into the background: {error}"));
            return Exit::Failure;
        }
    };
    serve(config, launch, None)
}

/// After a reload. Should the configuration have become invalid since it was checked, the former one
/// goes on.
fn go_on(config: Result<Config, ConfigError>, note: Handover, cli: &Cli) -> Exit {
    let former = Config::restore(&note.settings, cli);
    let config = match (config, &former) {
        (Ok(config), _) => config,
        (Err(error), Ok(former)) => {
            output::complain(format_args!(
                "tcp-echo: going on with the former configuration: {error}"
            ));
            former.clone()
        }
        (Err(error), Err(_)) => {
            output::complain(format_args!("tcp-echo: {error}"));
            return Exit::Failure;
        }
    };
    serve(config, None, Some((note, former.ok())))
}

/// `--check-config`; and, for a daemon that wants to become this build, the version that we speak.
fn approve(config: &Config) -> ExitCode {
    let answer = handover::answer();
    if answer.is_some() {
        if let Err(reason) = controller::preflight(config) {
            return refuse(reason, Exit::Failure);
        }
    }
    say(&format!("configuration is valid\n{}", answer.unwrap_or_default()))
}

fn serve(config: Config, launch: Option<Launch>, note: Option<(Handover, Option<Config>)>) -> Exit {
    logging::init(&config.log);
    let run = || {
        let invocation = match &note {
            Some((note, _)) => Invocation::again(note.program.clone()),
            None => Invocation::of_this_process()?,
        };
        let title = TitleArea::claim();
        let (worker_main, admin_main) = (worker::run, admin::run);
        let boot = Boot { worker_main, admin_main, invocation, title, launch };
        controller::run(config, boot, note)
    };
    run().unwrap_or_else(|error| {
        tracing::error!(target: logging::FATAL, "{error}");
        Exit::Failure
    })
}

fn say(text: &str) -> ExitCode {
    if output::say(text) { Exit::Ok.into() } else { Exit::Failure.into() }
}

fn refuse(reason: impl std::fmt::Display, exit: Exit) -> ExitCode {
    output::complain(format_args!("tcp-echo: {reason}"));
    exit.into()
}
