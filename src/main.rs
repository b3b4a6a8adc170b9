//! Command dispatch, and the exit code.
//!
//! The controller gets the main functions of the worker and the admin process from here, so that none of
//! the three imports another.

use std::fmt::Display;
use std::process::ExitCode;
use std::{env, io};

use tcp_echo::cli::{Cli, EarlyExit, SideCommand};
use tcp_echo::config::{Config, ConfigError, Fault, print};
use tcp_echo::daemon::controller::reload::state_handover::{self, Handover};
use tcp_echo::daemon::controller::{self, Program};
use tcp_echo::daemon::{admin, worker};
use tcp_echo::exit::Exit;
use tcp_echo::logging;
use tcp_echo::sys::daemon::{self, Launch};
use tcp_echo::sys::exec::Invocation;
use tcp_echo::sys::output;
use tcp_echo::sys::title::TitleArea;
use tcp_echo::tools::{bench, check, doctor};

fn main() -> ExitCode {
    Exit::after_printing(run()).into()
}

/// Runs the daemon or another command. An error is one of writing to standard output.
fn run() -> io::Result<Exit> {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(EarlyExit::Text(text)) => return output::print(text).map(|()| Exit::Ok),
        Err(EarlyExit::Usage(line)) => return Ok(fail(line, Exit::Usage)),
    };
    let Cli { layers, check_config, print_config, command } = cli;
    match command {
        Some(SideCommand::Check(options)) => return check::run(options),
        Some(SideCommand::Bench(options)) => return bench::run(options),
        Some(SideCommand::Doctor(arguments)) => {
            let run = |config: Config| doctor::run(&config, arguments.json);
            return Config::load(&layers).map_or_else(invalid, run);
        }
        None => {}
    }
    if print_config {
        let printed = |text: String| output::print(text).map(|()| Exit::Ok);
        return print::effective(&layers).map_or_else(invalid, printed);
    }
    let config = Config::load(&layers);
    if check_config {
        return config.map_or_else(invalid, |config| confirm(&config));
    }
    match Handover::from_environment() {
        Err(error) => Ok(fail(format_args!("cannot take over: {error}"), Exit::Failure)),
        Ok(None) => config.map_or_else(invalid, |config| Ok(start(config))),
        Ok(Some(handover)) => Ok(take_over(config, handover, &layers.faults)),
    }
}

/// Starts the daemon, in the background if the configuration says so.
fn start(config: Config) -> Exit {
    let launch = match config.process.daemon.then(daemon::daemonize).transpose() {
        Ok(launch) => launch,
        Err(error) => {
            return fail(format_args!("cannot run in the background: {error}"), Exit::Failure);
        }
    };
    serve(config, launch, None)
}

/// Continues the daemon after a reload. If the configuration has become invalid since it was checked,
/// the former one stays.
fn take_over(config: Result<Config, ConfigError>, handover: Handover, faults: &[Fault]) -> Exit {
    let former = Config::restore(&handover.settings, faults);
    let config = match (config, &former) {
        (Ok(config), _) => config,
        (Err(error), Ok(former)) => {
            output::print_error(format_args!(
                "tcp-echo: keeping the former configuration: {error}"
            ));
            former.clone()
        }
        (Err(error), Err(_)) => return fail(error, Exit::Failure),
    };
    serve(config, None, Some((handover, former.ok())))
}

/// Runs `--check-config`. The answer to a daemon that is about to become this build also has the version
/// of the handover.
fn confirm(config: &Config) -> io::Result<Exit> {
    let answer = state_handover::version_answer();
    if answer.is_some() {
        if let Err(reason) = controller::preflight(config) {
            return Ok(fail(reason, Exit::Failure));
        }
    }
    if let (None, Some(warning)) = (&answer, config.unknown_variables(env::vars_os())) {
        output::print_error(format_args!("tcp-echo: {warning}"));
    }
    let answer = answer.unwrap_or_default();
    output::print(format_args!("configuration is valid\n{answer}")).map(|()| Exit::Ok)
}

/// Runs the controller until the daemon ends.
fn serve(
    config: Config,
    launch: Option<Launch>,
    handover: Option<(Handover, Option<Config>)>,
) -> Exit {
    logging::init(&config.log);
    // A reload has the same environment.
    if let (None, Some(warning)) = (&handover, config.unknown_variables(env::vars_os())) {
        tracing::warn!("{warning}");
    }
    let run = || {
        let invocation = match &handover {
            Some((handover, _)) => Invocation::again(handover.program.clone()),
            None => Invocation::of_this_process()?,
        };
        let title = TitleArea::claim();
        let (worker_main, admin_main) = (worker::run, admin::run);
        let program = Program { worker_main, admin_main, invocation, title, launch };
        controller::run(config, program, handover)
    };
    run().unwrap_or_else(|error| {
        tracing::error!(target: logging::FATAL, "{error}");
        Exit::Failure
    })
}

/// Reports a configuration that is not valid.
fn invalid(error: ConfigError) -> io::Result<Exit> {
    Ok(fail(error, Exit::Usage))
}

/// Reports why nothing runs, and returns `exit`.
fn fail(reason: impl Display, exit: Exit) -> Exit {
    output::print_error(format_args!("tcp-echo: {reason}"));
    exit
}
