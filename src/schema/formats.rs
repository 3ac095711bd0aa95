//! Formats of strings, as patterns. Each accepts only what every reading of its format does, though not all of it: years
//! from 1000 to 2999, addresses and names of ASCII.

/// The pattern of a format, if it has one.
pub fn pattern(format: &str) -> Option<String> {
    let inner = match format {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("(?:{DATE})T{TIME}"),
        "duration" => DURATION.to_owned(),
        "uuid" => UUID.to_owned(),
        "email" | "idn-email" => format!("{LOCAL}@{HOST}"),
        "hostname" | "idn-hostname" => HOST.to_owned(),
        "ipv4" => format!("{BYTE}(?:\\.{BYTE}){{3}}"),
        "ipv6" => format!("(?:{HEX}:){{7}}{HEX}|(?:{HEX}:){{1,6}}:{HEX}|::(?:{HEX})?"),
        "uri" | "iri" => {
            format!("[a-z][a-z0-9+.-]{{1,15}}://{HOST}(?::\\d{{1,4}})?(?:/{PATH}*)?(?:\\?{PATH}*)?")
        }
        _ => return None,
    };
    Some(format!("^(?:{inner})$"))
}

/// Formats that say how a number or a string is stored and nothing about what may be written.
pub const FREE: [&str; 8] = [
    "int32", "int64", "float", "double", "decimal", "byte", "binary", "password",
];

/// With 29 February in leap years.
const DATE: &str = "[12]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)\
     |02-(?:0[1-9]|1\\d|2[0-8]))|(?:[12]\\d(?:0[48]|[2468][048]|[13579][26])|(?:1[26]|2[048])00)-02-29";
const TIME: &str =
    "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)";
const DURATION: &str = "P(?:\\d{1,6}[YMWD]|(?:\\d{1,6}D)?T(?:\\d{1,6}H(?:\\d{1,6}M(?:\\d{1,6}S)?)?\
     |\\d{1,6}M(?:\\d{1,6}S)?|\\d{1,6}S))";
const UUID: &str = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}";
const LOCAL: &str = "[A-Za-z0-9_%+-]{1,20}(?:\\.[A-Za-z0-9_%+-]{1,20}){0,2}";
const HOST: &str = "(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){1,4}[A-Za-z]{2,12}";
const BYTE: &str = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const HEX: &str = "[0-9a-fA-F]{1,4}";
const PATH: &str = "(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})";
