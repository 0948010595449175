//! How a module becomes the backing store of `content`, and how it takes its leave (RFC 10).

use module::{Context, Failure, Severity};
use proto::Empty;
use proto::content::{Backing, ContentRegisterBacking, ContentUnregisterBacking};
use rpc::RpcError;
use serde_json::Value;
use types::{Errno, Rank};

/// The service of the backing store, whatever module it is.
const SERVICE: &str = "content-backing";

/// Serves requests for the backing store from now on.
///
/// # Errors
///
/// Another module does so already.
pub(crate) fn serve(context: &Context) -> Result<(), Failure> {
    context.register_service(SERVICE)?;
    Ok(())
}

/// Announces the module to `content`.
///
/// # Errors
///
/// There is another backing store, or was.
pub(crate) async fn register(context: &Context) -> Result<(), Failure> {
    let backing = Backing {
        name: context.name().to_owned(),
    };
    let register = context
        .handle
        .call::<ContentRegisterBacking>(Rank::LEADER, &backing);
    register.await.map_err(|error| {
        let text = format!("register-backing: {error}: {}", error.errno);
        RpcError::new(error.errno, text)
    })?;
    Ok(())
}

/// Takes that back. `content` knows then that nothing more can be stored.
pub(crate) async fn unregister(context: &Context) {
    let unregister = context
        .handle
        .call::<ContentUnregisterBacking>(Rank::LEADER, &Empty {});
    if let Err(error) = unregister.await {
        // `content` may have gone first.
        context.log(Severity::Debug, format!("unregister-backing: {error}"));
    }
}

/// Refuses a checkpoint nobody could read. What is in it is for those who read it to judge.
///
/// # Errors
///
/// `EINVAL`: it is neither an object nor an array.
pub(crate) fn check_checkpoint(value: &Value) -> Result<(), RpcError> {
    if value.is_object() || value.is_array() {
        return Ok(());
    }
    let text = format!("failed to encode checkpoint value {value}: not an object");
    Err(RpcError::new(Errno::EINVAL, text))
}

/// Ends what [`serve`] began.
pub(crate) fn unserve(context: &Context) {
    context.unregister_service(SERVICE);
}
