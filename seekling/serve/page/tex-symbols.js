// TeX's names of symbols. Operators are given with MathML's idea of them; letters become identifiers.

const pairs = text => Object.fromEntries(text.trim().split(/\s+/).map(pair => {
  const cut = pair.indexOf("=");
  return [pair.slice(0, cut), pair.slice(cut + 1)];
}));

export const LETTERS = pairs(`
alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π varpi=ϖ
rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω
Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω
infty=∞ ell=ℓ hbar=ℏ imath=ı jmath=ȷ Re=ℜ Im=ℑ wp=℘ aleph=ℵ emptyset=∅ varnothing=∅ partial=∂ nabla=∇ degree=° angle=∠ triangle=△
top=⊤ bot=⊥ square=□ Box=□ checkmark=✓ prime=′ ldots=… dots=… cdots=⋯ dotsc=… dotsb=⋯ vdots=⋮ ddots=⋱ pounds=£ euro=€ S=§ dagger=† ddagger=‡ star=⋆`);

export const OPERATORS = pairs(`
pm=± mp=∓ times=× div=÷ cdot=⋅ ast=∗ circ=∘ bullet=∙ oplus=⊕ ominus=⊖ otimes=⊗ odot=⊙ wedge=∧ land=∧ vee=∨ lor=∨ neg=¬ lnot=¬ cap=∩ cup=∪
setminus=∖ backslash=∖ sqcup=⊔ sqcap=⊓ uplus=⊎ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ equiv=≡ approx=≈ sim=∼ simeq=≃ cong=≅
propto=∝ ll=≪ gg=≫ prec=≺ succ=≻ preceq=⪯ succeq=⪰ in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆ supset=⊃ supseteq=⊇ subsetneq=⊊ perp=⊥ parallel=∥ mid=∣ nmid=∤
vdash=⊢ models=⊨ vDash=⊨ forall=∀ exists=∃ nexists=∄ therefore=∴ because=∵ asymp=≍ doteq=≐ triangleq=≜ coloneqq=≔ lesssim=≲ gtrsim=≳
to=→ rightarrow=→ leftarrow=← gets=← leftrightarrow=↔ uparrow=↑ downarrow=↓ Rightarrow=⇒ implies=⟹ Leftarrow=⇐ impliedby=⟸ Leftrightarrow=⇔ iff=⟺
longrightarrow=⟶ longleftarrow=⟵ Longrightarrow=⟹ longleftrightarrow=⟷ mapsto=↦ longmapsto=⟼ hookrightarrow=↪ nearrow=↗ searrow=↘ rightharpoonup=⇀ rightleftharpoons=⇌ leadsto=⇝
colon=: lbrace={ rbrace=} langle=⟨ rangle=⟩ lceil=⌈ rceil=⌉ lfloor=⌊ rfloor=⌋ lvert=| rvert=| vert=| Vert=‖ lVert=‖ rVert=‖ lbrack=[ rbrack=] lt=< gt=>`);

/** Big ones, whose limits stand below and above in displays. */
export const BIG = pairs("sum=∑ prod=∏ coprod=∐ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigwedge=⋀ bigvee=⋁ bigsqcup=⨆ biguplus=⨄");
export const INTEGRALS = pairs("int=∫ iint=∬ iiint=∭ oint=∮");

export const FUNCTIONS = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth exp log ln lg arg deg dim hom ker".split(" "));
export const LIMITED = new Set("lim max min sup inf limsup liminf argmax argmin det gcd Pr".split(" "));

export const ACCENTS = pairs("hat=^ widehat=^ bar=¯ overline=¯ vec=→ overrightarrow=→ dot=˙ ddot=¨ tilde=~ widetilde=~ check=ˇ breve=˘ acute=´ grave=` mathring=˚");
export const STRETCHED = new Set(["widehat", "overline", "overrightarrow", "widetilde"]);

export const SPACES = { ",": 0.167, ":": 0.222, ">": 0.222, ";": 0.278, "!": -0.167, " ": 0.25, quad: 1, qquad: 2, enspace: 0.5, thinspace: 0.167, medspace: 0.222, thickspace: 0.278, "~": 0.25 };

// Styled alphabets as Unicode has them; MathML Core knows no others. Offsets of A, a and 0.
const STYLES = {
  mathbf: [0x1d400, 0x1d41a, 0x1d7ce], boldsymbol: [0x1d468, 0x1d482, 0x1d7ce], bm: [0x1d468, 0x1d482, 0x1d7ce], mathit: [0x1d434, 0x1d44e],
  mathcal: [0x1d49c, 0x1d4b6], mathscr: [0x1d49c, 0x1d4b6], mathfrak: [0x1d504, 0x1d51e], mathbb: [0x1d538, 0x1d552, 0x1d7d8], mathsf: [0x1d5a0, 0x1d5ba, 0x1d7e2], mathtt: [0x1d670, 0x1d68a, 0x1d7f6],
};
const HOLES = {
  mathbb: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
  mathcal: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  mathfrak: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
  mathit: { h: "ℎ" },
};
HOLES.mathscr = HOLES.mathcal;

export const isStyle = name => name in STYLES || name === "mathrm";

/** A character in a styled alphabet; itself where that has none. */
export function styled(char, style) {
  const starts = STYLES[style], code = char.codePointAt(0);
  if (!starts) return char;
  if (HOLES[style]?.[char]) return HOLES[style][char];
  if (code >= 65 && code <= 90) return String.fromCodePoint(starts[0] + code - 65);
  if (code >= 97 && code <= 122) return String.fromCodePoint(starts[1] + code - 97);
  if (code >= 48 && code <= 57 && starts[2]) return String.fromCodePoint(starts[2] + code - 48);
  if (style === "mathbf" || style === "boldsymbol" || style === "bm") {
    if (code >= 0x391 && code <= 0x3a9) return String.fromCodePoint(0x1d6a8 + code - 0x391);
    if (code >= 0x3b1 && code <= 0x3c9) return String.fromCodePoint(0x1d6c2 + code - 0x3b1);
  }
  return char;
}
