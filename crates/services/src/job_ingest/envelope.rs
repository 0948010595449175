//! The envelope of a submitted jobspec (RFC 15), as far as the mechanism `none` needs it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use types::UserId;

/// Takes a jobspec out of its envelope `HEADER.PAYLOAD.SIGNATURE`. Returns who signed it, and it.
/// Errors are texts for people.
pub(super) fn unwrap(signed: &str) -> Result<(UserId, Vec<u8>), String> {
    let mut parts = signed.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("sign-unwrap: input is not HEADER.PAYLOAD.SIGNATURE".to_owned());
    };
    let decode = |text: &str, what: &str| {
        STANDARD
            .decode(text)
            .map_err(|_| format!("sign-unwrap: {what} is not base64"))
    };
    let header = decode(header, "header")?;
    let fields: Vec<&[u8]> = header.split(|byte| *byte == 0).collect();
    let mut userid = None;
    let mut mechanism = None;
    for pair in fields.chunks_exact(2) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = text(pair[1]);
        match text(pair[0]).as_str() {
            "version" if value != "i1" => {
                return Err("sign-unwrap: header version is not 1".to_owned());
            }
            "userid" => userid = value.strip_prefix('i').and_then(|id| id.parse().ok()),
            "mechanism" => mechanism = value.strip_prefix('s').map(str::to_owned),
            _ => {}
        }
    }
    let userid = userid.ok_or("sign-unwrap: header userid missing")?;
    match mechanism.as_deref() {
        Some("none") if signature == "none" => {}
        Some("none") => return Err("sign-unwrap: invalid signature".to_owned()),
        Some(other) => return Err(format!("sign-unwrap: mechanism={other} not allowed")),
        None => return Err("sign-unwrap: header mechanism missing".to_owned()),
    }
    Ok((UserId(userid), decode(payload, "payload")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(header: &str, signature: &str) -> String {
        format!(
            "{}.{}.{signature}",
            STANDARD.encode(header),
            STANDARD.encode("{}")
        )
    }

    #[test]
    fn envelopes_are_opened() {
        let header = "version\0i1\0userid\0i100\0mechanism\0snone\0";
        let (user, payload) = unwrap(&wrap(header, "none")).expect("valid");
        assert_eq!((user, payload.as_slice()), (UserId(100), b"{}".as_slice()));
        for bad in [
            wrap(header, "nine"),
            wrap("version\0i2\0userid\0i100\0mechanism\0snone\0", "none"),
            wrap("version\0i1\0mechanism\0snone\0", "none"),
            wrap("version\0i1\0userid\0i100\0mechanism\0smunge\0", "none"),
            "a.b".into(),
            "!.e30=.none".into(),
        ] {
            assert!(unwrap(&bad).is_err(), "{bad}");
        }
    }
}
