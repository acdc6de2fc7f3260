//! supervisord of this clone: its configuration, and how it is spoken to.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    command,
    engine::STOP_TIMEOUT,
    error::{Error, Result},
    replace::{READABLE, replace},
    stack::Stack,
    tools, wait,
};

/// What supervisord puts into the environment of its programs.
pub const MARK: &str = "SUPERVISOR_ENABLED=1";
const MARK_NAME: &str = "SUPERVISOR_ENABLED";

/// One word with supervisord; the longest is a stop, which waits for the program's end.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);

const START_TIMEOUT: Duration = Duration::from_secs(10);

const CONFIGURATION: &str = "supervisord.conf";

/// The extension of the files with groups of programs.
const GROUPS: &str = "group";

/// A process that supervisord keeps running.
pub struct Program<'a> {
    pub name: &'a str,
    pub binary: &'a Path,
    pub arguments: &'a str,
    pub variables: Vec<(String, String)>,
}

pub struct Supervisor<'a> {
    stack: &'a Stack,
}

impl<'a> Supervisor<'a> {
    pub fn new(stack: &'a Stack) -> Self {
        Self { stack }
    }

    /// Writes the configuration; it takes effect at the start, or with `update`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, programs: &[Program]) -> Result<()> {
        let path = self.stack.run().join(CONFIGURATION);
        fs::write(&path, configuration(programs)).map_err(Error::file(path))
    }

    /// Writes the programs of a group into the file of its own, which the next `update` of the group
    /// reads. One without programs is none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure_group(&self, name: &str, programs: &[Program]) -> Result<()> {
        let path = self.stack.run().join(name).with_extension(GROUPS);
        replace(&path, group(name, programs), READABLE, None)
    }

    pub fn running(&self) -> bool {
        self.control(&["pid"]).is_ok()
    }

    /// Starts supervisord itself; harmless when it runs.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(&self) -> Result<()> {
        if self.running() {
            return Ok(());
        }
        let mut command = self.command("supervisord", &[]);
        // Under a supervisor of somebody else it would look like one of its own programs.
        command::run(command.env_remove(MARK_NAME), START_TIMEOUT)?;
        wait::until("supervisord's answer", START_TIMEOUT, || {
            self.control(&["pid"]).map(drop)
        })
    }

    /// Takes the present configuration of one program over, and of no other.
    ///
    /// # Errors
    /// supervisord refuses.
    pub fn update(&self, name: &str) -> Result<()> {
        self.control(&["reread"])?;
        self.control(&["update", name]).map(drop)
    }

    /// Whether a program runs, or is on its way to.
    pub fn runs(&self, name: &str) -> bool {
        self.control(&["status", name]).is_ok()
    }

    /// Starts a program; harmless when it runs.
    ///
    /// # Errors
    /// It ends at once; its last words are told.
    pub fn start(&self, name: &str) -> Result<()> {
        if self.runs(name) {
            return Ok(());
        }
        match self.control(&["start", name]) {
            Err(Error::Command { command, reason }) => Err(Error::Command {
                command,
                reason: format!("{reason}{}", self.last_words(name)),
            }),
            outcome => outcome.map(drop),
        }
    }

    /// Starts all programs of a group at once; harmless for those that run.
    ///
    /// # Errors
    /// One of them ends at once, or cannot be started.
    pub fn start_group(&self, name: &str) -> Result<()> {
        self.control(&["start", &format!("{name}:*")]).map(drop)
    }

    /// Stops a program and waits for its end; harmless when it does not run.
    ///
    /// # Errors
    /// supervisord refuses.
    pub fn stop(&self, name: &str) -> Result<()> {
        match self.control(&["stop", name]) {
            Err(Error::Command { reason, .. }) if reason.contains("not running") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Ends supervisord, and with it what it still runs.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn shut_down(&self) -> Result<()> {
        self.control(&["shutdown"])?;
        wait::until("supervisord's end", STOP_TIMEOUT + START_TIMEOUT, || {
            if self.running() {
                Err(Error::Command {
                    command: "supervisorctl shutdown".into(),
                    reason: "it still runs".into(),
                })
            } else {
                Ok(())
            }
        })
    }

    fn last_words(&self, name: &str) -> String {
        let log = fs::read(self.stack.log(name)).unwrap_or_default();
        match String::from_utf8_lossy(&log).lines().last() {
            None => String::new(),
            Some(line) => format!("; its last words: {line}"),
        }
    }

    fn control(&self, arguments: &[&str]) -> Result<String> {
        command::run(
            &mut self.command("supervisorctl", arguments),
            CONTROL_TIMEOUT,
        )
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::program(&self.stack.tools(), program));
        command
            .args(["-c", CONFIGURATION])
            .args(arguments)
            .current_dir(self.stack.run());
        command
    }
}

/// The socket's name is relative: names of sockets are short, and clones may lie deep.
fn configuration(programs: &[Program]) -> String {
    let head = "; Written by the deploy program.\n\
                [supervisord]\nlogfile=logs/supervisord.log\npidfile=supervisord.pid\n\
                [unix_http_server]\nfile=supervisor.sock\nchmod=0700\n\
                [supervisorctl]\nserverurl=unix://supervisor.sock\n\
                [rpcinterface:supervisor]\n\
                supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
                [include]\nfiles=*.group\n";
    programs
        .iter()
        .fold(head.to_owned(), |text, program| text + &section(program))
}

fn group(name: &str, programs: &[Program]) -> String {
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    if names.is_empty() {
        return String::new();
    }
    let head = format!("[group:{name}]\nprograms={}\n", names.join(","));
    programs
        .iter()
        .fold(head, |text, program| text + &section(program))
}

/// One argument, whatever is in it.
pub fn quoted(argument: &str) -> String {
    let argument = argument.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escape(&argument))
}

/// A program that ends by itself is started again.
fn section(program: &Program) -> String {
    let Program {
        name, arguments, ..
    } = program;
    format!(
        "[program:{name}]\ncommand=\"{}\"{arguments}\nenvironment={}\n\
         autostart=false\nautorestart=true\nstartsecs=1\nstopsignal=TERM\n\
         stopwaitsecs={}\nredirect_stderr=true\nstdout_logfile=logs/{name}.log\n\
         stdout_logfile_maxbytes=20MB\nstdout_logfile_backups=3\n",
        escape(&program.binary.to_string_lossy()),
        environment(&program.variables),
        STOP_TIMEOUT.as_secs(),
    )
}

/// A list of variables in supervisord's own notation.
fn environment(variables: &[(String, String)]) -> String {
    variables
        .iter()
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            format!("{name}=\"{}\"", escape(&value))
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// A percent sign begins a substitution in supervisord's configuration.
fn escape(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_drained_before_it_is_killed() {
        let text = configuration(&[Program {
            name: "blue",
            binary: Path::new("/a 100%/tally"),
            arguments: "",
            variables: vec![("A".into(), "b".into())],
        }]);
        assert!(text.contains("[program:blue]\ncommand=\"/a 100%%/tally\"\n"));
        assert!(text.contains("stopsignal=TERM\nstopwaitsecs=12\n"));
    }

    #[test]
    fn what_means_something_to_supervisord_is_quoted() {
        let variables = [("A".to_owned(), "a\"b%".to_owned())];
        assert_eq!(environment(&variables), "A=\"a\\\"b%%\"");
    }

    #[test]
    fn a_group_is_its_programs() {
        let program = Program {
            name: "loki",
            binary: Path::new("/loki"),
            arguments: "",
            variables: vec![],
        };
        let text = group("monitoring", &[program]);
        assert!(text.starts_with("[group:monitoring]\nprograms=loki\n[program:loki]\n"));
        assert_eq!(group("monitoring", &[]), "");
        assert_eq!(quoted("a \"b%\""), "\"a \\\"b%%\\\"\"");
    }

    #[test]
    fn the_mark_is_the_variable_that_is_taken_away() {
        assert_eq!(MARK.split_once('='), Some((MARK_NAME, "1")));
    }
}
