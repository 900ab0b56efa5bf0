//! `mezzo events` and `mezzo app events`: the scheduler's events until Ctrl-C, a line each.

use serde_json::Value;

use super::Context;
use crate::{
    args::events::{AppEventsArgs, EventsArgs, How},
    client::events::Events,
    failure::Failure,
    output::{Format, print},
    render, request,
};

pub(crate) async fn run(context: &Context, args: &EventsArgs) -> Result<(), Failure> {
    tell(context, &args.how, None).await
}

/// Those that speak of one app.
pub(crate) async fn of_app(context: &Context, args: &AppEventsArgs) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    tell(context, &args.how, Some(id.as_str())).await
}

async fn tell(context: &Context, how: &How, app: Option<&str>) -> Result<(), Failure> {
    let url = &context.servers.scheduler;
    let mut events = Events::open(url, &how.types, how.after.as_deref()).await?;
    let mut left = how.count;
    while left != Some(0) {
        let event = events.next().await?;
        let is_gap = render::event::field(&event.data, "eventType") == "event_stream_gap";
        if !is_gap && app.is_some_and(|app| !render::event::speaks_of(&event.data, app)) {
            continue;
        }
        match context.output.format {
            Format::Table => print(&render::event::line(&event.data, context.output.style))?,
            Format::Json => {
                let mut data = event.data;
                if let (Some(fields), Some(id)) = (data.as_object_mut(), event.id) {
                    fields.insert("eventId".to_owned(), Value::String(id));
                }
                print(&format!("{data}\n"))?;
            }
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}
