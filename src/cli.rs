//! The command line: parses it, checks the configuration, and hands over to the component. Decides nothing else.

use crate::config::console::ConsoleConfig;
use crate::config::operator::OperatorConfig;
use crate::config::{self, Component, Report};
use crate::control::commands::{self, DrainArgs, Target};
use crate::{clock, node, operator, recover, sabotage, telemetry, web};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Exit codes of the process (0: a clean end). They follow the BSD `sysexits` where that has a word for it.
pub mod exit {
    /// Wrong command line.
    pub const USAGE: u8 = 64;
    /// The metadata store does not remember what brokers have done: it was restored from a backup. Or a recovery refuses.
    pub const WENT_BACK: u8 = 65;
    /// A store that the process needs cannot be reached or refuses (start-up gate).
    pub const UNAVAILABLE: u8 = 69;
    /// A defect of the program; among others a panic on the commit path.
    pub const SOFTWARE: u8 = 70;
    /// An address that is taken, a data folder that is in use, a file that cannot be made.
    pub const RESOURCE: u8 = 73;
    /// Of `drain`: it was called off, or not done in time.
    pub const NOT_DONE: u8 = 75;
    /// Of `drain`: the broker refuses, since no other one could take over.
    pub const REFUSED: u8 = 77;
    /// Wrong configuration.
    pub const CONFIG: u8 = 78;
}

#[derive(Debug, Parser)]
#[command(name = "kafscale", version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process with embedded stores; data stays in one folder and survives restarts.
    Dev(Box<config::args::DevArgs>),
    /// Run one broker against S3 and etcd.
    Broker(Box<config::args::BrokerArgs>),
    /// Run the Kubernetes operator.
    Operator(Box<config::operator::OperatorArgs>),
    /// Run the web console of a cluster.
    Console(Box<config::console::ConsoleArgs>),
    /// Let a broker give everything to the others, before it is stopped; or let it take work again.
    Drain(Box<DrainArgs>),
    /// Print what a broker is and how it does.
    Status(Box<Target>),
    /// Rebuild the metadata store from the object store after it was lost or restored from a backup. Without --write it only
    /// prints what it would do. Stop all brokers first.
    Recover {
        /// Write what was planned.
        #[arg(long)]
        write: bool,
        /// Write although something cannot be restored.
        #[arg(long)]
        force: bool,
        /// The same as for the brokers.
        #[command(flatten)]
        args: Box<config::args::BrokerArgs>,
    },
    /// Check the configuration and print what would be used, secrets redacted.
    CheckConfig {
        /// The component whose configuration is checked.
        #[arg(long, value_enum, default_value = "broker")]
        component: Component,
        /// Flags of the component, as they would be given to it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
    /// Print the definitions of the custom resources, for `kubectl apply --server-side -f -`.
    Crd,
    /// Print docs/configuration.md.
    #[command(hide = true)]
    ConfigDocs,
    /// Print the table of docs/telemetry.md.
    #[command(hide = true)]
    SpanDocs,
}

/// Runs the program with the command line `argv` (program name first).
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match Cli::command().try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = Cli::from_arg_matches(&matches).expect("the matches come from this command");
    let (_, arguments) = matches.subcommand().expect("a subcommand is required");
    match cli.command {
        Command::Dev(_) => start(Component::Dev, arguments),
        Command::Broker(_) => start(Component::Broker, arguments),
        Command::Operator(_) => operate(arguments),
        Command::Console(_) => console(arguments),
        Command::Drain(args) => commands::drain(&args),
        Command::Status(target) => commands::status(&target),
        Command::Recover { write, force, .. } => recover(arguments, recover::Options { write, force }),
        Command::CheckConfig { component, flags } => check_config(component, flags),
        Command::Crd => {
            print!("{}", operator::crd::definitions().each_ref().map(operator::crd::yaml).join("---\n"));
            ExitCode::SUCCESS
        }
        Command::SpanDocs => {
            print!("{}", crate::trace::catalogue::table());
            ExitCode::SUCCESS
        }
        Command::ConfigDocs => {
            print!("{}", config::docs::render());
            ExitCode::SUCCESS
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print(); // nowhere left to report a closed terminal
    if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS }
}

fn start(component: Component, arguments: &clap::ArgMatches) -> ExitCode {
    let environment = config::process_environment();
    let report = config::resolve(component, arguments, &environment);
    let log = |config: &config::ProcessConfig| {
        (config.log_level, config.telemetry.clone(), Some(config.node.broker_id.to_string()))
    };
    run_with(component, report, &environment, log, |config| node::run(config.node, config.console))
}

fn operate(arguments: &clap::ArgMatches) -> ExitCode {
    let environment = config::process_environment();
    let report = config::operator::resolve(arguments, &environment);
    let log = |config: &OperatorConfig| (config.log_level, config.telemetry.clone(), Some(config.identity.clone()));
    run_with(Component::Operator, report, &environment, log, operator::run)
}

fn console(arguments: &clap::ArgMatches) -> ExitCode {
    let environment = config::process_environment();
    let report = config::console::resolve(arguments, &environment);
    let log = |config: &ConsoleConfig| (config.log_level, config.telemetry.clone(), None);
    run_with(Component::Console, report, &environment, log, web::run)
}

/// Runs a component until it ends, or says what is wrong with its configuration.
fn run_with<C>(
    component: Component,
    report: Report<C>,
    environment: &config::Environment,
    log: impl FnOnce(&C) -> (tracing::Level, config::TelemetryConfig, Option<String>),
    run: impl FnOnce(C) -> ExitCode,
) -> ExitCode {
    let Report { warnings, outcome, .. } = report;
    let config = match outcome {
        Ok(config) => config,
        Err(errors) => {
            print_problems(&warnings, &errors);
            return ExitCode::from(exit::CONFIG);
        }
    };
    let (level, telemetry, instance) = log(&config);
    let process = telemetry::Process { component: component.name(), instance: instance.as_deref() };
    let telemetry = match telemetry::init(level, telemetry, process) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    sabotage::choose(environment);
    clock::start(environment);
    web::assets::choose(environment);
    let code = run(config);
    telemetry.shutdown();
    code
}

fn recover(arguments: &clap::ArgMatches, options: recover::Options) -> ExitCode {
    let Report { warnings, outcome, .. } =
        config::resolve(Component::Broker, arguments, &config::process_environment());
    match outcome {
        Ok(config) => {
            print_problems(&warnings, &[]);
            recover::run(config.node, options)
        }
        Err(errors) => {
            print_problems(&warnings, &errors);
            ExitCode::from(exit::CONFIG)
        }
    }
}

fn check_config(component: Component, flags: Vec<OsString>) -> ExitCode {
    let argv = [OsString::from("kafscale"), OsString::from(component.name())].into_iter().chain(flags);
    let matches = match Cli::command().try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let (_, arguments) = matches.subcommand().expect("the component is the subcommand");
    let environment = config::process_environment();
    match component {
        Component::Operator => show(&config::operator::resolve(arguments, &environment)),
        Component::Console => show(&config::console::resolve(arguments, &environment)),
        Component::Dev | Component::Broker => show(&config::resolve(component, arguments, &environment)),
    }
}

fn show<C>(report: &Report<C>) -> ExitCode {
    let name_width = report.settings.iter().map(|s| s.name.len()).max().unwrap_or(0);
    let shown = |setting: &config::Setting| setting.value.clone().unwrap_or_else(|| "(unset)".to_owned());
    let value_width = report.settings.iter().map(|s| shown(s).len()).max().unwrap_or(0);
    for setting in &report.settings {
        println!("{:name_width$}  {:value_width$}  {}", setting.name, shown(setting), setting.source);
    }
    match &report.outcome {
        Ok(_) => {
            print_problems(&report.warnings, &[]);
            ExitCode::SUCCESS
        }
        Err(errors) => {
            print_problems(&report.warnings, errors);
            ExitCode::from(exit::CONFIG)
        }
    }
}

fn print_problems(warnings: &[String], errors: &[config::ConfigError]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    for error in errors {
        eprintln!("error: {error}");
    }
    if !errors.is_empty() {
        eprintln!("{} error(s) in the configuration; nothing was started", errors.len());
    }
}
