"use strict";
const cards = [...document.querySelectorAll(".card")];
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

const play = (video) => video.play().catch(() => {});

// A picture's button, or a click on the picture, plays and pauses the video that `current` names.
function playable(picture, current) {
  const button = picture.querySelector(".play");
  const toggle = () => (current().paused ? play(current()) : current().pause());
  button.hidden = false;
  picture.addEventListener("click", toggle);
  for (const video of picture.querySelectorAll("video"))
    for (const change of ["play", "pause"])
      video.addEventListener(change, () => picture.classList.toggle("paused", current().paused && !current().ended));
  picture.classList.toggle("paused", current().paused);
}

// Pointing at a region, in the list or in a picture, lights it everywhere in its scene.
function light(card, region) {
  for (const part of card.querySelectorAll("[data-region]")) part.classList.toggle("lit", part.dataset.region === region);
  card.classList.toggle("lighting", region !== undefined);
}

const followers = cards.map((card) => {
  const picture = card.querySelector(".clip");
  const clip = picture.querySelector("video");
  const live = picture.querySelector(".live");
  const stills = [...card.querySelectorAll(".stills li")];

  if (calm) clip.autoplay = false, clip.pause();
  playable(picture, () => clip);
  const point = (event) => light(card, event.target.closest("[data-region]")?.dataset.region);
  for (const kind of ["pointerover", "pointerleave", "focusin"]) card.addEventListener(kind, point);
  card.addEventListener("focusout", () => light(card));
  stills.forEach((still, index) =>
    still.querySelector("button").addEventListener("click", () => {
      clip.pause();
      clip.currentTime = ((index + 0.5) / stills.length) * clip.duration;
    }),
  );

  // The still whose keyframe is playing is marked, and its boxes lie over the clip.
  let shown = -1;
  return () => {
    const now = Math.min(stills.length - 1, Math.floor((clip.currentTime / (clip.duration || 1)) * stills.length));
    if (now === shown) return;
    stills.forEach((still, index) => still.classList.toggle("now", index === now));
    live.replaceChildren(stills[now].querySelector(".overlay").cloneNode(true));
    shown = now;
  };
});
(function follow() {
  for (const step of followers) step();
  requestAnimationFrame(follow);
})();

// The screen plays the scenes' clips one after another: one video shows while the other makes the next ready.
const screen = document.querySelector(".screen");
if (screen) {
  const links = [...document.querySelectorAll(".strip a")];
  let [front, back] = screen.querySelectorAll("video");
  let scene = 0;
  const load = (video, index) => (video.src = cards[index % cards.length].querySelector("video").src);
  const show = () => {
    front.classList.add("front");
    back.classList.remove("front");
    screen.querySelector("figcaption").textContent = cards[scene].dataset.narration;
    links.forEach((link, index) => (index === scene ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    load(back, scene + 1);
  };
  const next = () => {
    [front, back] = [back, front];
    scene = (scene + 1) % cards.length;
    show();
    play(front);
  };
  for (const video of [front, back]) video.addEventListener("ended", next);
  screen.hidden = false;
  load(front, 0);
  show();
  playable(screen.querySelector(".picture"), () => front);
  if (!calm) play(front);
}
