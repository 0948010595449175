//! Broker modules as actors.
//!
//! A module is an async function given a [`Context`]: its inbox, its [`rpc::Handle`], and the few
//! things of its broker it may use without a message ([`Host`]). It owns its state, takes one
//! input at a time with [`Context::next`], and ends by returning. Where it runs is the host's
//! choice.
//!
//! Life cycle: the host calls the function; it sets itself up, calls [`Context::ready`] (which
//! answers whoever loads it), serves until `next` returns `None`, puts its affairs in order and
//! returns. A failure before `ready` fails the load; one after it is reported and, unless asked
//! for, ends the broker.
//!
//! ```no_run
//! # use module::{Context, Failure, Input};
//! # use rpc::Routes;
//! async fn run(mut context: Context) -> Result<(), Failure> {
//!     let routes = Routes::<u32>::new();
//!     let mut state = 0;
//!     context.ready();
//!     while let Some(input) = context.next().await {
//!         match input {
//!             Input::Request(message) => context.dispatch(&routes, &mut state, message),
//!             Input::Event(_) => {}
//!         }
//!     }
//!     Ok(())
//! }
//! ```

mod context;
mod exchange;
mod generic;

pub use context::{Context, Failure, Host, Input, Status, dispatch_generic};
pub use exchange::Exchange;
pub use generic::{ping, rusage};
pub use proto::log::Severity;

use std::future::Future;
use std::pin::Pin;

/// What a module's function returns.
pub type ModuleFuture = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// A module that comes with the program.
#[derive(Clone, Copy)]
pub struct Builtin {
    /// Its name, which is also its service's.
    pub name: &'static str,
    /// Its function.
    pub main: fn(Context) -> ModuleFuture,
}
