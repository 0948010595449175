//! The broker's own services: attr, log, event, service, module, config, state-machine, runat,
//! shutdown, broker, connector-local.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use module::Severity;
use proto::attr::{AttrGet, AttrList, AttrRemove, AttrSet, Names, Set, Value as AttrValue};
use proto::broker::{
    BrokerConfBuiltin, BrokerGetEnv, BrokerSetEnv, ConfBuiltin, ConfBuiltinValues, Env, GetEnv,
    HeapTraceDump, HeapTraceStart, HeapTraceStop, Monitor, Post, RunAt, RunAtPush, ServiceDebug,
    ServiceStats, Shutdown, ShutdownLog, ShutdownStart, State as StateReport, StateGet,
    StateMonitor, StatePost, StateWait,
};
use proto::config::{Config, ConfigGet, ConfigLoad, ConfigReload, ModuleConfigReload};
use proto::event::{EventPublish, EventSubscribe, EventUnsubscribe, Publish, Published};
use proto::log::{Cancel, Dmesg, LogAppend, LogCancel, LogClear, LogDmesg, LogSetAttr, SetAttr};
use proto::module::{
    List, Load, Module, ModuleList, ModuleLoad, ModuleRemove, ModuleStatus, Remove,
};
use proto::service::{Service, ServiceAdd, ServiceRemove};
use proto::trace::ModuleTrace;
use proto::{Access, Empty};
use rpc::{Request, Routes, RpcError};
use serde_json::{Map, Value};
use types::{Errno, Rank};
use wire::{Flags, Message};

use crate::broker::Broker;
use crate::internal::{OWN_MODULES, ServiceRoutes};
use crate::lifecycle::State;
use crate::modules::Program;
use crate::{config, external, modules, runat};

type Shared = Rc<Broker>;

/// Every service that lives in the broker, by name.
pub(crate) fn all() -> Vec<(&'static str, ServiceRoutes)> {
    vec![
        ("attr", attr()),
        ("broker", broker()),
        ("config", config_service()),
        ("connector-local", connector()),
        ("event", event()),
        ("groups", crate::groups::routes()),
        ("heaptrace", heaptrace()),
        ("log", log()),
        ("module", module_service()),
        ("overlay", crate::overlay_service::routes()),
        ("runat", runat_service()),
        ("service", service()),
        ("shutdown", shutdown()),
        ("state-machine", state_machine()),
    ]
}

/// Events the broker itself subscribes to.
pub(crate) fn on_event(broker: &Shared, message: &Message) {
    if message.topic_str() == proto::overlay::HEARTBEAT_PULSE {
        broker.overlay.on_heartbeat(broker);
    }
}

fn attr() -> ServiceRoutes {
    Routes::new()
        .on::<AttrGet>(|broker: &mut Shared, request, name| {
            let attrs = broker.attrs.borrow();
            match attrs.get(&name.name) {
                Some(value) => request.reply(&AttrValue {
                    value: value.to_owned(),
                    flags: attrs.is_immutable(&name.name).into(),
                }),
                None => request.fail(Errno::ENOENT),
            }
        })
        .on::<AttrList>(|broker, request, Empty {}| {
            request.reply(&Names {
                names: broker.attrs.borrow().names(),
            });
        })
        .on::<AttrSet>(|broker, request, set: Set| {
            let result = set_attr(broker, &set);
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<AttrRemove>(|broker, request, name| {
            let result = broker.attrs.borrow_mut().remove(&name.name);
            request.reply_result(&result.map(|()| Empty {}));
        })
}

fn set_attr(broker: &Shared, set: &Set) -> Result<(), RpcError> {
    broker.attrs.borrow().check_set(&set.name, set.force)?;
    if set.name.starts_with("log-") {
        broker.log.set_attr(&set.name, &set.value)?;
    }
    broker.attrs.borrow_mut().put(&set.name, set.value.clone());
    Ok(())
}

fn log() -> ServiceRoutes {
    Routes::new()
        .on_raw::<LogAppend>(|broker: &mut Shared, request| {
            if let Some(record) = &request.message().payload {
                broker.log.append(record.clone());
            }
            if request.message().matchtag().is_some() {
                request.reply(&Empty {});
            }
        })
        .on::<LogDmesg>(|broker, request, dmesg: Dmesg| {
            broker.log.on_dmesg(request, dmesg.follow, !dmesg.nobacklog);
        })
        .on::<LogCancel>(|broker, request, cancel: Cancel| {
            broker
                .log
                .on_cancel(request.message(), Some(cancel.matchtag));
        })
        .on::<LogClear>(|broker, request, Empty {}| {
            broker.log.clear();
            request.reply(&Empty {});
        })
        .on::<LogSetAttr>(|broker, request, set: SetAttr| {
            let result = broker.log.set_attr(&set.name, &set.value);
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on::<ServiceStats>(|broker, request, Empty {}| request.reply(&broker.log.stats()))
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker.log.on_cancel(&notice, None);
        })
}

fn event() -> ServiceRoutes {
    Routes::new()
        .on::<EventPublish>(|broker: &mut Shared, request, publish: Publish| {
            let result = publish_event(broker, request.message(), &publish);
            request.reply_result(&result);
        })
        // Modules subscribe through their host, clients through the connector.
        .on::<EventSubscribe>(|_, request, _| request.fail(Errno::EINVAL))
        .on::<EventUnsubscribe>(|_, request, _| request.fail(Errno::EINVAL))
}

fn publish_event(
    broker: &Shared,
    request: &Message,
    publish: &Publish,
) -> Result<Published, RpcError> {
    if broker.router.rank() != Rank::LEADER {
        let text = "this service is only available on rank 0";
        return Err(RpcError::new(Errno::EPROTO, text));
    }
    if publish.flags & !i32::from(Flags::PRIVATE.0) != 0 {
        return Err(Errno::EPROTO.into());
    }
    let mut event = Message::event(publish.topic.as_str().into());
    if publish.flags != 0 {
        event = event.with_flags(Flags::PRIVATE);
    }
    if let Some(payload) = &publish.payload {
        let bytes = STANDARD
            .decode(payload)
            .map_err(|_| RpcError::from(Errno::EPROTO))?;
        event = event.with_payload(bytes.into());
    }
    event.cred = request.cred;
    let sequence = broker.router.publish_on_leader(event);
    Ok(Published {
        seq: sequence.into(),
    })
}

/// A broker without a heap profiler says so, whatever is asked in the right form.
fn heaptrace() -> ServiceRoutes {
    Routes::new()
        .on::<HeapTraceStart>(|_: &mut Shared, request, _| request.fail(Errno::ENOSYS))
        .on::<HeapTraceDump>(|_, request, _| request.fail(Errno::ENOSYS))
        .on::<HeapTraceStop>(|_, request, _| request.fail(Errno::ENOSYS))
}

fn service() -> ServiceRoutes {
    // Clients' requests of these names stop at the connector, modules use their host.
    let refuse = || RpcError::new(Errno::ENOENT, "requestor is not local");
    Routes::new()
        .on::<ServiceAdd>(move |_: &mut Shared, request, _: Service| request.fail(refuse()))
        .on::<ServiceRemove>(move |_, request, _: Service| request.fail(refuse()))
}

fn connector() -> ServiceRoutes {
    Routes::new()
        .on::<ServiceStats>(|broker: &mut Shared, request, Empty {}| {
            let access = broker.access.borrow();
            let mut stats = Map::new();
            stats.insert("server".into(), broker.connector.stats());
            stats.insert("allow_guest_user".into(), access.allow_guest_user.into());
            stats.insert("allow_root_owner".into(), access.allow_root_owner.into());
            request.reply(&stats);
        })
        .on::<ServiceDebug>(|broker, request, debug| {
            let old = broker.connector.debug.get();
            let flags = match debug.op.as_str() {
                "setbit" => old | debug.flags,
                "clrbit" => old & !debug.flags,
                "set" => debug.flags,
                "clr" => 0,
                _ => return request.fail(Errno::EPROTO),
            };
            broker.connector.debug.set(flags);
            request.reply(&proto::broker::DebugFlags { flags });
        })
}

fn module_service() -> ServiceRoutes {
    Routes::new()
        .on::<ModuleList>(|broker: &mut Shared, request, Empty {}| {
            request.reply(&List {
                mods: list_modules(broker),
            });
        })
        .on::<ModuleLoad>(|broker, request, load: Load| {
            let broker = broker.clone();
            tokio::task::spawn_local(async move {
                let result = load_module(&broker, load).await;
                request.reply_result(&result.map(|()| Empty {}));
            });
        })
        .on::<ModuleTrace>(|broker, request, wanted| broker.router.traces.follow(request, wanted))
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker.router.traces.forget(&notice);
        })
        // The host takes its modules' reports; a client that acts as one, as for tests, has none.
        .on::<ModuleStatus>(|_, request, _| request.reply(&Empty {}))
        .on::<ModuleRemove>(|broker, request, remove: Remove| {
            let broker = broker.clone();
            tokio::task::spawn_local(async move {
                let result = modules::remove(&broker, &remove.name, remove.cancel).await;
                request.reply_result(&result.map(|()| Empty {}));
            });
        })
}

/// The loaded modules and the services the reference has as modules of the broker.
fn list_modules(broker: &Broker) -> Vec<Module> {
    let mut modules = broker.modules.list(&broker.router);
    modules.extend(OWN_MODULES.iter().map(|name| Module {
        name: (*name).to_owned(),
        path: "builtin".to_owned(),
        idle: 0,
        status: module::Status::Running as i32,
        services: vec![(*name).to_owned()],
        sendqueue: 0,
        recvqueue: 0,
    }));
    modules
}

pub(crate) async fn load_module(broker: &Shared, load: Load) -> Result<(), RpcError> {
    let stem = proto::module::name_of(&load.path).to_owned();
    let name = load.name.clone().unwrap_or_else(|| stem.clone());
    // The modules that come with the program stand in for the reference's files of that name.
    if load.loader.is_none()
        && let Some(builtin) = broker.builtin(&stem)
    {
        let program = Program::builtin(builtin, &name, &load.path, load.args);
        return modules::load(broker, program).await;
    }
    let external = external::find(&load)?;
    let program = Program {
        name,
        path: external.path.display().to_string(),
        args: load.args,
        main: Box::new(external.main(broker.clone())),
        raw_responses: true,
    };
    modules::load(broker, program).await
}

fn config_service() -> ServiceRoutes {
    Routes::new()
        .on::<ConfigGet>(|broker: &mut Shared, request, Empty {}| {
            request.reply(&broker.config.borrow());
            if request.is_streaming() {
                broker.config_followers.borrow_mut().push(request);
            }
        })
        .on::<ConfigLoad>(|broker, request, new: Config| {
            if let Err(error) = only_on_leader(broker) {
                return request.fail(error);
            }
            let broker = broker.clone();
            tokio::task::spawn_local(async move {
                let result = apply_config(&broker, new).await;
                request.reply_result(&result.map(|()| Empty {}));
            });
        })
        .on::<ConfigReload>(|broker, request, Empty {}| {
            if let Err(error) = only_on_leader(broker) {
                return request.fail(error);
            }
            let path = broker.attrs.borrow().get("config.path").map(str::to_owned);
            let Some(path) = path else {
                return request.reply(&Empty {});
            };
            let new = match config::load(path.as_ref()) {
                Ok(new) => new,
                Err(error) => {
                    let text = format!("Config file error: {error}");
                    return request.fail(RpcError::new(Errno::EINVAL, text));
                }
            };
            if new == **broker.config.borrow() {
                return request.reply(&Empty {});
            }
            let broker = broker.clone();
            tokio::task::spawn_local(async move {
                let result = apply_config(&broker, new).await;
                request.reply_result(&result.map(|()| Empty {}));
            });
        })
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker
                .config_followers
                .borrow_mut()
                .retain(|follower| !follower.is_from_sender_of(&notice));
        })
}

fn only_on_leader(broker: &Broker) -> Result<(), RpcError> {
    if broker.router.rank() == Rank::LEADER {
        return Ok(());
    }
    Err(RpcError::new(
        Errno::EINVAL,
        "configuration can only be changed on rank 0",
    ))
}

/// Hands every module the new configuration; if one refuses, those before it get the old one back.
pub(crate) async fn apply_config(broker: &Shared, new: Config) -> Result<(), RpcError> {
    let access = crate::broker::Access::parse(&new).map_err(|text| {
        RpcError::new(
            Errno::EINVAL,
            format!("error updating connector-local: {text}"),
        )
    })?;
    let torpid = crate::tbon_settings::change(&broker.attrs.borrow(), &new)
        .map_err(|text| RpcError::new(Errno::EINVAL, format!("error updating overlay: {text}")))?;
    let handle = broker.router.handle();
    let old = broker.config.borrow().clone();
    let mut changed = Vec::new();
    for name in broker.modules.names() {
        let call = handle
            .call_service::<ModuleConfigReload>(&name, broker.router.rank(), &new)
            .await;
        match call {
            Ok(_) => changed.push(name),
            Err(error) if error.errno == Errno::ENOSYS => {}
            Err(error) => {
                for name in changed {
                    let undo = handle
                        .call_service::<ModuleConfigReload>(&name, broker.router.rank(), &old)
                        .await;
                    if let Err(error) = undo {
                        let text = format!("error restoring configuration of {name}: {error}");
                        broker.log(Severity::Err, &text);
                    }
                }
                let text = format!("error updating {name}: {error}");
                return Err(RpcError::new(error.errno, text));
            }
        }
    }
    *broker.access.borrow_mut() = access;
    broker.overlay.set_torpid(torpid);
    torpid.show(&mut broker.attrs.borrow_mut());
    for follower in broker.config_followers.borrow().iter() {
        follower.reply(&new);
    }
    *broker.config.borrow_mut() = Rc::new(new);
    Ok(())
}

fn state_machine() -> ServiceRoutes {
    Routes::new()
        .on::<StateGet>(|broker: &mut Shared, request, Empty {}| {
            request.reply(&StateReport {
                state: broker.machine.state().name().to_owned(),
                duration: broker.machine.duration().as_secs_f64(),
            });
        })
        .on::<StateWait>(|broker, request, Empty {}| broker.machine.on_wait(request))
        .on::<StateMonitor>(|broker, request, monitor: Monitor| {
            broker.machine.on_monitor(request, monitor.last);
        })
        .on::<StatePost>(|broker, request, post: Post| {
            if !request.message().flags.contains(Flags::NORESPONSE) {
                return request.fail(Errno::EPROTO);
            }
            if post.error {
                broker.note_failure();
            }
            broker.post(&post.event);
        })
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker.machine.on_disconnect(&notice);
        })
        // Progress reports for systemd; without it there is nobody to show them to.
        .on_message("sd-notify", Access::Owner, |_, handle, message| {
            handle.respond(&message, &Empty {});
        })
}

fn runat_service() -> ServiceRoutes {
    Routes::new().on::<RunAtPush>(|broker: &mut Shared, request, push: RunAt| {
        let result = runat::push(broker, &push);
        request.reply_result(&result.map(|()| Empty {}));
    })
}

fn shutdown() -> ServiceRoutes {
    Routes::new()
        .on::<ShutdownStart>(|broker: &mut Shared, request, shutdown: Shutdown| {
            if let Err(text) = may_shut_down(broker) {
                return request.fail(RpcError::new(Errno::EINVAL, text));
            }
            broker.shutting_down.set(true);
            if request.is_streaming() {
                let level = shutdown.loglevel.unwrap_or(3);
                let taker = Rc::new(request);
                let tap = taker.clone();
                broker.log.tap(
                    level,
                    Box::new(move |line| {
                        tap.reply(&ShutdownLog {
                            log: line.to_owned(),
                        })
                    }),
                );
                broker.shutdown_requests.borrow_mut().push(taker);
            } else {
                request.reply(&ShutdownLog::default());
            }
            runat::hang_up_rc2(broker);
            broker.post("shutdown");
        })
        .on_message("disconnect", Access::Any, |broker, _, notice| {
            broker
                .shutdown_requests
                .borrow_mut()
                .retain(|request| !request.is_from_sender_of(&notice));
            broker.client_left();
        })
}

fn may_shut_down(broker: &Broker) -> Result<(), String> {
    if broker.router.rank() != Rank::LEADER {
        return Err("shutdown may only be initiated on rank 0".into());
    }
    if broker.shutting_down.get() {
        return Err("shutdown is already in progress".into());
    }
    match broker.machine.state() {
        State::Run => Ok(()),
        state => Err(format!(
            "shutdown cannot be initiated in state {}",
            state.name()
        )),
    }
}

fn broker() -> ServiceRoutes {
    Routes::new()
        .on::<BrokerGetEnv>(
            |broker: &mut Shared, request: Request<BrokerGetEnv>, names: GetEnv| {
                let changed = broker.environment.borrow();
                let env = names
                    .names
                    .into_iter()
                    .filter_map(|name| {
                        let value = match changed.get(&name) {
                            Some(value) => value.clone(),
                            None => std::env::var(&name).ok(),
                        }?;
                        Some((name, Value::String(value)))
                    })
                    .collect();
                request.reply(&Env { env });
            },
        )
        .on::<BrokerSetEnv>(|broker, request, env: Env| {
            let valid = |(name, value): (&String, &Value)| {
                !name.is_empty()
                    && !name.contains(['=', '\0'])
                    && match value {
                        Value::String(text) => !text.contains('\0'),
                        value => value.is_null(),
                    }
            };
            // All or nothing.
            if !env.env.iter().all(valid) {
                return request.fail(Errno::EPROTO);
            }
            broker.environment.borrow_mut().extend(
                env.env
                    .into_iter()
                    .map(|(name, value)| (name, value.as_str().map(str::to_owned))),
            );
            request.reply(&Empty {});
        })
        .on::<BrokerConfBuiltin>(|_broker, request, keys: ConfBuiltin| {
            let mut values = Map::new();
            for key in keys.keys {
                match types::installation::get(&key) {
                    Some(value) => values.insert(key, Value::String(value)),
                    None => {
                        let text = format!("{key}: invalid key");
                        return request.fail(RpcError::new(Errno::EINVAL, text));
                    }
                };
            }
            request.reply(&ConfBuiltinValues { values });
        })
}
