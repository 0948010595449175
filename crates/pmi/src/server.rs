//! The server of one node's tasks.

use std::collections::HashMap;

use crate::line::Line;
use crate::{KEY_MAX, KVSNAME_MAX, VALUE_MAX};

/// What a server tells its tasks.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The name of the job, which a nested broker takes for its job id.
    pub kvsname: String,
    /// The tasks of the whole program.
    pub universe_size: u32,
    /// The tasks on this node.
    pub local_tasks: u32,
}

/// What the owner of a server has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a line to a task.
    Reply {
        /// The local index of the task.
        task: u32,
        /// The line, newline included.
        line: String,
    },
    /// Every local task is in the barrier: exchange these new pairs with the other nodes and call
    /// [`Server::barrier_complete`].
    Exchange(HashMap<String, String>),
    /// A task asks for the end of the program.
    Abort {
        /// The local index of the task.
        task: u32,
        /// The exit code it asks for.
        code: i32,
        /// Why.
        message: String,
    },
    /// A task has initialised a protocol of this other version.
    BadVersion {
        /// The local index of the task.
        task: u32,
    },
    /// A task sent what is no request.
    ProtocolError {
        /// The local index of the task.
        task: u32,
        /// What it sent.
        line: String,
    },
    /// A task is done with the protocol.
    Finalized {
        /// The local index of the task.
        task: u32,
    },
}

/// The protocol's state for the tasks of one node.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    /// Pairs only this node sees.
    local: HashMap<String, String>,
    /// Pairs put since the last barrier.
    fresh: HashMap<String, String>,
    /// Pairs exchanged.
    shared: HashMap<String, String>,
    in_barrier: Vec<bool>,
    spawning: Vec<bool>,
    aborted: bool,
}

impl Server {
    /// A server whose tasks find `local` already there.
    pub fn new(settings: Settings, local: HashMap<String, String>) -> Server {
        let tasks = settings.local_tasks as usize;
        Server {
            settings,
            local,
            fresh: HashMap::new(),
            shared: HashMap::new(),
            in_barrier: vec![false; tasks],
            spawning: vec![false; tasks],
            aborted: false,
        }
    }

    /// Takes a line from a task.
    pub fn on_line(&mut self, task: u32, text: &str, out: &mut Vec<Output>) {
        let index = task as usize;
        if index >= self.in_barrier.len() || self.aborted {
            return;
        }
        if self.spawning[index] {
            // A spawn request has many lines; only its end is answered.
            if text.trim_end() == "endcmd" {
                self.spawning[index] = false;
                reply(out, task, "cmd=spawn_result rc=-1".into());
            }
            return;
        }
        let Ok(line) = Line::parse(text) else {
            return out.push(Output::ProtocolError {
                task,
                line: text.to_owned(),
            });
        };
        match line.command() {
            "init" => self.init(task, &line, out),
            "get_maxes" => {
                let text = format!(
                    "cmd=maxes rc=0 kvsname_max={KVSNAME_MAX} keylen_max={KEY_MAX} \
                     vallen_max={VALUE_MAX}"
                );
                reply(out, task, text);
            }
            "get_appnum" => reply(out, task, "cmd=appnum rc=0 appnum=0".into()),
            "get_my_kvsname" => {
                let text = format!("cmd=my_kvsname rc=0 kvsname={}", self.settings.kvsname);
                reply(out, task, text);
            }
            "get_universe_size" => {
                let text = format!(
                    "cmd=universe_size rc=0 size={}",
                    self.settings.universe_size
                );
                reply(out, task, text);
            }
            "put" => self.put(task, &line, text, out),
            "get" => self.get(task, &line, text, out),
            "barrier_in" => self.barrier_in(task, out),
            "publish_name" => not_implemented(out, task, "publish_result"),
            "unpublish_name" => not_implemented(out, task, "unpublish_result"),
            "lookup_name" => not_implemented(out, task, "lookup_result"),
            "spawn" => self.spawning[index] = true,
            "abort" => {
                self.aborted = true;
                let code = line.number("exitcode").or_else(|| line.number("exit_code"));
                let message = line.rest("error_msg").unwrap_or("aborted").to_owned();
                out.push(Output::Abort {
                    task,
                    code: code.unwrap_or(1) as i32,
                    message,
                });
            }
            "finalize" => {
                reply(out, task, "cmd=finalize_ack rc=0".into());
                out.push(Output::Finalized { task });
            }
            _ => out.push(Output::ProtocolError {
                task,
                line: text.to_owned(),
            }),
        }
    }

    fn init(&mut self, task: u32, line: &Line<'_>, out: &mut Vec<Output>) {
        if line.number("pmi_version") == Some(1) {
            let text = "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1";
            return reply(out, task, text.into());
        }
        reply(
            out,
            task,
            "cmd=response_to_init rc=-1 pmi_version=1 pmi_subversion=1".into(),
        );
        out.push(Output::BadVersion { task });
    }

    fn put(&mut self, task: u32, line: &Line<'_>, text: &str, out: &mut Vec<Output>) {
        let (Some(key), Some(value)) = (line.field("key"), line.rest("value")) else {
            return out.push(Output::ProtocolError {
                task,
                line: text.to_owned(),
            });
        };
        if key.len() >= KEY_MAX || value.len() >= VALUE_MAX {
            return reply(
                out,
                task,
                "cmd=put_result rc=-1 msg=key or value too long".into(),
            );
        }
        let pairs = match key.starts_with("local::") {
            true => &mut self.local,
            false => &mut self.fresh,
        };
        pairs.insert(key.to_owned(), value.to_owned());
        reply(out, task, "cmd=put_result rc=0".into());
    }

    fn get(&self, task: u32, line: &Line<'_>, text: &str, out: &mut Vec<Output>) {
        let Some(key) = line.field("key") else {
            return out.push(Output::ProtocolError {
                task,
                line: text.to_owned(),
            });
        };
        let value = [&self.local, &self.fresh, &self.shared]
            .into_iter()
            .find_map(|pairs| pairs.get(key));
        match value {
            Some(value) => reply(out, task, format!("cmd=get_result rc=0 value={value}")),
            // 4 is "invalid key" of the canonical interface.
            None => reply(out, task, "cmd=get_result rc=4".into()),
        }
    }

    fn barrier_in(&mut self, task: u32, out: &mut Vec<Output>) {
        self.in_barrier[task as usize] = true;
        if self.in_barrier.iter().all(|entered| *entered) {
            out.push(Output::Exchange(std::mem::take(&mut self.fresh)));
        }
    }

    /// Lets the tasks out of the barrier: `pairs` are those of all nodes, `ok` whether the
    /// exchange succeeded.
    pub fn barrier_complete(
        &mut self,
        pairs: HashMap<String, String>,
        ok: bool,
        out: &mut Vec<Output>,
    ) {
        self.shared.extend(pairs);
        let rc = if ok { 0 } else { -1 };
        for task in 0..self.in_barrier.len() {
            self.in_barrier[task] = false;
            reply(out, task as u32, format!("cmd=barrier_out rc={rc}"));
        }
    }
}

fn reply(out: &mut Vec<Output>, task: u32, mut line: String) {
    line.push('\n');
    out.push(Output::Reply { task, line });
}

fn not_implemented(out: &mut Vec<Output>, task: u32, command: &str) {
    reply(
        out,
        task,
        format!("cmd={command} rc=-1 msg=command not implemented"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(tasks: u32) -> Server {
        let settings = Settings {
            kvsname: "job".into(),
            universe_size: 4,
            local_tasks: tasks,
        };
        Server::new(settings, HashMap::from([("local".into(), "yes".into())]))
    }

    fn check(server: &mut Server, task: u32, line: &str, expect: &str) {
        let mut out = Vec::new();
        server.on_line(task, line, &mut out);
        let expect = Output::Reply {
            task,
            line: format!("{expect}\n"),
        };
        assert_eq!(out, [expect], "{line}");
    }

    #[test]
    fn requests_get_the_answers_of_rfc_13() {
        let s = &mut server(1);
        check(
            s,
            0,
            "cmd=init pmi_version=1 pmi_subversion=1\n",
            "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1",
        );
        check(
            s,
            0,
            "cmd=get_maxes\n",
            "cmd=maxes rc=0 kvsname_max=64 keylen_max=64 vallen_max=1024",
        );
        check(
            s,
            0,
            "cmd=get_universe_size\n",
            "cmd=universe_size rc=0 size=4",
        );
        check(
            s,
            0,
            "cmd=get_my_kvsname\n",
            "cmd=my_kvsname rc=0 kvsname=job",
        );
        check(s, 0, "cmd=get_appnum\n", "cmd=appnum rc=0 appnum=0");
        check(
            s,
            0,
            "cmd=get kvsname=job key=local\n",
            "cmd=get_result rc=0 value=yes",
        );
        check(
            s,
            0,
            "cmd=get kvsname=job key=none\n",
            "cmd=get_result rc=4",
        );
        check(
            s,
            0,
            "cmd=put kvsname=job key=a value=b c=d\n",
            "cmd=put_result rc=0",
        );
        check(
            s,
            0,
            "cmd=get kvsname=job key=a\n",
            "cmd=get_result rc=0 value=b c=d",
        );
        check(
            s,
            0,
            "cmd=publish_name service=x port=y\n",
            "cmd=publish_result rc=-1 msg=command not implemented",
        );
    }

    #[test]
    fn the_barrier_waits_for_all_and_exchanges_what_is_new() {
        let s = &mut server(2);
        check(
            s,
            0,
            "cmd=put kvsname=job key=a value=1",
            "cmd=put_result rc=0",
        );
        let mut out = Vec::new();
        s.on_line(0, "cmd=barrier_in", &mut out);
        assert_eq!(out, []);
        s.on_line(1, "cmd=barrier_in", &mut out);
        assert_eq!(
            out,
            [Output::Exchange(HashMap::from([("a".into(), "1".into())]))]
        );
        out.clear();
        s.barrier_complete(HashMap::from([("b".into(), "2".into())]), true, &mut out);
        assert_eq!(out.len(), 2);
        check(
            s,
            1,
            "cmd=get kvsname=job key=b",
            "cmd=get_result rc=0 value=2",
        );
    }

    #[test]
    fn spawn_is_refused_and_nonsense_reported() {
        let s = &mut server(1);
        let mut out = Vec::new();
        s.on_line(0, "mcmd=spawn", &mut out);
        s.on_line(0, "nprocs=1", &mut out);
        assert_eq!(out, []);
        check(s, 0, "endcmd", "cmd=spawn_result rc=-1");
        s.on_line(0, "what", &mut out);
        assert_eq!(
            out,
            [Output::ProtocolError {
                task: 0,
                line: "what".into()
            }]
        );
        s.on_line(9, "cmd=barrier_in", &mut out);
        assert_eq!(out.len(), 1, "an unknown task is ignored");
    }
}
