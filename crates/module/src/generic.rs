//! What every service answers: ping and resource use.

use nix::sys::resource::{UsageWho, getrusage};
use proto::broker::Ping;
use rpc::RpcError;
use serde_json::{Map, Value, json};
use types::{Errno, Rank};
use wire::{Message, RouteId};

/// The answer to a ping: the request, and the way it came.
///
/// `route` lists the ids passed, oldest first, and the answering party's own, each cut to eight
/// characters.
pub fn ping(request: &Message, mut payload: Ping, rank: Rank, own: &RouteId) -> Ping {
    let mut route: Vec<_> = request.routes().iter().map(RouteId::short).collect();
    route.push(own.short());
    payload.insert("route".into(), route.join("!").into());
    // Client libraries unpack these as signed numbers.
    payload.insert("userid".into(), (request.cred.userid.0 as i32).into());
    payload.insert("rolemask".into(), (request.cred.rolemask.0 as i32).into());
    payload.insert("rank".into(), rank.0.into());
    payload
}

/// The answer to `rusage`. Errors: `EINVAL` for an unknown `who`.
pub fn rusage(who: Option<&str>) -> Result<Map<String, Value>, RpcError> {
    let usage = match who.unwrap_or("self") {
        "self" => UsageWho::RUSAGE_SELF,
        "children" => UsageWho::RUSAGE_CHILDREN,
        "thread" => UsageWho::RUSAGE_THREAD,
        other => {
            return Err(RpcError::new(
                Errno::EINVAL,
                format!("{other} is unsupported"),
            ));
        }
    };
    let usage = getrusage(usage).map_err(|errno| RpcError::from(Errno(errno as i32)))?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let raw = usage.as_ref();
    let values = json!({
        "utime": seconds(usage.user_time()),
        "stime": seconds(usage.system_time()),
        "maxrss": raw.ru_maxrss, "ixrss": raw.ru_ixrss, "idrss": raw.ru_idrss,
        "isrss": raw.ru_isrss, "minflt": raw.ru_minflt, "majflt": raw.ru_majflt,
        "nswap": raw.ru_nswap, "inblock": raw.ru_inblock, "oublock": raw.ru_oublock,
        "msgsnd": raw.ru_msgsnd, "msgrcv": raw.ru_msgrcv, "nsignals": raw.ru_nsignals,
        "nvcsw": raw.ru_nvcsw, "nivcsw": raw.ru_nivcsw,
    });
    match values {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}
