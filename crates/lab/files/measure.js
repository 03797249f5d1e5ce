// Measures the open page. The driver can run it even if the page itself must not run scripts.
const root = document.documentElement;
const text = element => element.textContent.trim() || element.tagName.toLowerCase();
const links = [...document.querySelectorAll('a[href], button')];

const ownText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());

// WCAG 2.2, 2.5.8: links in sentences may be as small as their line.
const inSentence = link => getComputedStyle(link).display === 'inline' && ownText(link.parentElement);

// WCAG 2.2, 1.4.3. Colors on these pages are opaque; a transparent one counts as too little contrast.
const parts = color => color.match(/[\d.]+/g).map(Number);
const luminance = color => {
  const [red, green, blue] = parts(color).map(part => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = element => {
  const color = getComputedStyle(element).backgroundColor;
  const clear = parts(color)[3] === 0;
  if (!clear) return color;
  return element.parentElement ? behind(element.parentElement) : 'rgb(255, 255, 255)';
};
const contrast = element => {
  const [one, other] = [getComputedStyle(element).color, behind(element)].map(luminance);
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
};

return {
  lang: root.lang,
  dir: getComputedStyle(root).direction,
  title: document.title,
  width: root.clientWidth,
  needed: Math.max(root.scrollWidth, document.body.scrollWidth),
  broken: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
  missing: ['header', 'nav', 'main', 'h1', 'footer'].filter(name => !document.querySelector(name)),
  small: links.filter(link => !inSentence(link)).filter(link => {
    const box = link.getBoundingClientRect();
    return box.width < 24 || box.height < 24;
  }).map(text),
  pale: [...document.body.querySelectorAll('*')]
    .filter(element => ownText(element) && contrast(element) < 4.5).map(text),
  links: links.length,
  button: document.querySelector('.button')?.href,
  fold: document.querySelector('.button')?.getBoundingClientRect().bottom,
};
