"use strict";

// The page of a live call: no build step, no dependency.
const at = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const words = {
  asking: "asking for your microphone …",
  calling: "calling …",
  listening: "listening",
  thinking: "thinking …",
  speaking: "speaking",
  weak: "the connection is weak …",
};
const TROUBLE_SECONDS = 12; // a sentence of trouble stays so long during a call
let call = null; // the call in progress
let picture = ""; // name of the caller's own picture on the server
let captionsOn = true;

let fading = 0;
function trouble(text) {
  clearTimeout(fading);
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
  if (call) fading = setTimeout(() => call && trouble(""), 1000 * TROUBLE_SECONDS);
}

function show(state) {
  at("stage").dataset.state = state;
  const muted = call && at("mute").getAttribute("aria-pressed") === "true";
  at("state").textContent = (words[state] || "") + (muted ? " · you are muted" : "");
  const active = state !== "idle";
  for (const id of ["mute", "captions", "hangup"]) at(id).hidden = !active;
  for (const id of ["call", "pick"]) at(id).hidden = active;
  // The picture stays until the first frame is there.
  at("still").hidden = active && at("video").readyState > 1;
  at("hint").hidden = active || Boolean(picture);
}

function caption(who, text, more) {
  if (!captionsOn) return;
  const line = at("caption");
  if (more && line.lastChild && line.lastChild.className === who) {
    line.lastChild.textContent += text;
    line.scrollTop = line.scrollHeight;
    return;
  }
  const part = document.createElement("span");
  part.className = who;
  part.textContent = who === "user" ? `You: ${text || "…"} ` : text;
  if (who === "user") line.replaceChildren(part);
  else if (line.lastChild && line.lastChild.className === "user") line.append(part);
  else line.replaceChildren(part);
  line.scrollTop = line.scrollHeight;
}

async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body, headers });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const text = await response.text();
  if (!response.ok) throw new Error(text || `The server refused (${response.status}).`);
  return text;
}

async function choose(file) {
  if (!file || call) return;
  trouble("");
  try {
    const answer = JSON.parse(await ask("picture", file));
    picture = answer.picture;
    trouble(answer.note);
    if (at("still").src.startsWith("blob:")) URL.revokeObjectURL(at("still").src);
    at("still").src = URL.createObjectURL(file);
    show("idle");
  } catch (error) {
    trouble(error.message);
  }
}

async function microphone() {
  if (!navigator.mediaDevices) {
    throw new Error("This browser gives no microphone here: open the page over https, or on this machine.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    if (error.name === "NotFoundError") throw new Error("There is no microphone: connect one and call again.");
    throw new Error("The microphone was refused: allow it for this page and call again.");
  }
}

function gathered(connection) {
  if (connection.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((done) => {
    const check = () => connection.iceGatheringState === "complete" && done();
    connection.addEventListener("icegatheringstatechange", check);
    setTimeout(done, 2000);
  });
}

async function begin() {
  trouble("");
  at("caption").replaceChildren();
  const mine = { connection: null, stream: null, channel: null, name: "", state: "calling" };
  call = mine;
  show("asking");
  try {
    mine.stream = await microphone();
    if (call !== mine) return end(mine);
    show("calling");
    const connection = (mine.connection = new RTCPeerConnection({ iceServers: [] }));
    for (const track of mine.stream.getTracks()) connection.addTrack(track, mine.stream);
    connection.addTransceiver("video", { direction: "recvonly" });
    mine.channel = connection.createDataChannel("call");
    mine.channel.onmessage = (event) => heed(mine, JSON.parse(event.data));
    mine.channel.onclose = () => lost(mine);
    connection.ontrack = (event) => {
      // Sound and picture come as one stream, so that the browser keeps them in step.
      at("video").srcObject = event.streams[0];
    };
    connection.onconnectionstatechange = () => {
      const state = connection.connectionState;
      if (["failed", "closed"].includes(state)) lost(mine);
      else if (mine === call && state === "disconnected") show("weak");
      else if (mine === call && state === "connected") show(mine.state);
    };
    await connection.setLocalDescription(await connection.createOffer());
    await gathered(connection);
    const { sdp, type } = connection.localDescription;
    const answer = JSON.parse(await ask("offer", JSON.stringify({ sdp, type, picture })));
    mine.name = answer.call;
    if (call !== mine) return end(mine);
    await connection.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
  } catch (error) {
    if (call === mine) {
      trouble(error.message);
      hangUp();
    } else end(mine);
  }
}

function heed(mine, message) {
  if (mine !== call) return;
  if (message.state) show((mine.state = message.state));
  if (message.caption) caption(message.caption, message.text, message.caption === "character");
  if (message.delays) mine.delays = message.delays;
  if (message.trouble) trouble(message.trouble);
  if (message.ended) {
    trouble(message.ended);
    hangUp();
  }
}

function lost(mine) {
  if (mine !== call) return;
  trouble("The connection was lost. Call again.");
  hangUp();
}

function end(mine) {
  if (mine.stream) mine.stream.getTracks().forEach((track) => track.stop());
  if (mine.name) fetch("hangup", { method: "POST", body: mine.name, headers, keepalive: true }).catch(() => {});
  if (mine.connection) mine.connection.close();
}

function hangUp() {
  if (!call) return;
  const mine = call;
  call = null;
  clearTimeout(fading);
  end(mine);
  at("video").srcObject = null;
  at("figures").textContent = "";
  at("mute").setAttribute("aria-pressed", "false");
  at("mute").textContent = "Mute";
  show("idle");
  at("call").focus();
}

function mute() {
  if (!call || !call.stream) return;
  const on = at("mute").getAttribute("aria-pressed") !== "true";
  call.stream.getAudioTracks().forEach((track) => (track.enabled = !on));
  at("mute").setAttribute("aria-pressed", String(on));
  at("mute").textContent = on ? "Muted" : "Mute";
  show(at("stage").dataset.state);
}

function toggleCaptions() {
  captionsOn = !captionsOn;
  at("captions").setAttribute("aria-pressed", String(captionsOn));
  at("caption").hidden = !captionsOn;
}

async function figures() {
  if (at("figures").hidden || !call || !call.connection) return;
  const lines = [];
  const second = (value) => (value === undefined ? "–" : `${value.toFixed(2)} s`);
  const delays = call.delays || {};
  lines.push(`end of speech → voice   ${second(delays.voice)}`);
  lines.push(`end of speech → picture ${second(delays.answer)}`);
  const reports = await call.connection.getStats();
  for (const report of reports.values()) {
    if (report.type === "inbound-rtp" && report.kind === "video") {
      lines.push(`frames a second         ${report.framesPerSecond ?? "–"}`);
      lines.push(`frames dropped          ${report.framesDropped ?? 0}`);
    }
    if (report.type === "transport") {
      const pair = reports.get(report.selectedCandidatePairId);
      lines.push(`round trip              ${second(pair && pair.currentRoundTripTime)}`);
    }
  }
  at("figures").textContent = lines.join("\n");
}

at("call").onclick = begin;
at("video").onloadeddata = () => {
  if (!call) return;
  if (call.state === "calling") call.state = "listening";
  show(call.state);
};
at("hangup").onclick = hangUp;
at("mute").onclick = mute;
at("captions").onclick = toggleCaptions;
at("file").onchange = (event) => choose(event.target.files[0]);
at("pick").onkeydown = (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    at("file").click();
  }
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") hangUp();
  else if (event.key === "m") mute();
  else if (event.key === "c" && call) toggleCaptions();
  else if (event.key === "d") at("figures").hidden = !at("figures").hidden;
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("stage").classList.toggle("drop", !call && (kind === "dragenter" || kind === "dragover"));
    if (kind === "drop" && !call) choose(event.dataTransfer.files[0]);
  });
}
window.addEventListener("pagehide", () => call && end(call));
setInterval(figures, 500);
show("idle");
